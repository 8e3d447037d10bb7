"""Writes format v2.1: an episode is whole when `meta/info.json` counts it. Knows nothing of frames.

Files of an episode are put in place first, lines of metadata appended next, and `info.json` replaced last. What a killed
writer left beyond that count is cut off and written over when the dataset is opened to be written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import append_line, move, write_json
from vlascope_datasets.info import INFO, DatasetInfo
from vlascope_datasets.layouts.prepared import Prepared
from vlascope_datasets.layouts.read_v2 import EPISODE_STATISTICS, EPISODES, TASKS, data_file, video_file
from vlascope_datasets.statistics import to_lists


class WriterV2:
    """Puts prepared episodes where v2.1 has them.

    Attributes:
        info: as last committed.
        tasks: task index by instruction, committed ones.
    """

    # an episode is a file: small groups make one image cheap to reach
    row_group = 32

    def __init__(self, root: Path, info: DatasetInfo, tasks: Mapping[str, int]):
        self.root, self.info, self.tasks = root, info, dict(tasks)
        if info.total_episodes == 0:
            write_json(root / INFO, info.to_map())
        self._cut_back()

    def _cut_back(self) -> None:
        """Cuts off lines of metadata beyond what is committed."""
        episodes = self.info.total_episodes
        for name, count in ((TASKS, len(self.tasks)), (EPISODES, episodes), (EPISODE_STATISTICS, episodes)):
            _keep_lines(self.root / name, count)

    def commit(self, episode: Prepared, info: DatasetInfo, tasks: Mapping[str, int]) -> None:
        """Adds one episode; it exists once this returns, and not before its last step.

        Args:
            episode: its files, which are moved.
            info: of the dataset with it.
            tasks: of the dataset with it.
        """
        number = episode.index
        move(episode.table, self.root / data_file(info, number))
        for key, video in episode.videos.items():
            move(video, self.root / video_file(info, number, key))
        try:
            for task, index in tasks.items():
                if task not in self.tasks:
                    append_line(self.root / TASKS, {"task_index": index, "task": task})
            line = {"episode_index": number, "tasks": list(episode.tasks), "length": episode.length}
            append_line(
                self.root / EPISODE_STATISTICS, {"episode_index": number, "stats": to_lists(episode.statistics)}
            )
            append_line(self.root / EPISODES, line)
            write_json(self.root / INFO, info.to_map())
        except BaseException:
            self._cut_back()
            raise
        self.info, self.tasks = info, dict(tasks)

    def finish(self) -> None:
        """Nothing is left to do: every episode was committed."""

    def waiting(self) -> list[Prepared]:
        """Episodes that wait for `finish`: none."""
        return []


def _keep_lines(path: Path, count: int) -> None:
    """Leaves the first `count` lines of a file, which is made where it is missing."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return
    content = path.read_bytes()
    end = 0
    for number in range(count):
        end = content.find(b"\n", end) + 1
        if not end:
            raise DamagedError(f"{path}: expected {count} lines, found {number}")
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
