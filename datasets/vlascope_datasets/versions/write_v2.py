"""Writes format v2.1: an episode is whole when `meta/info.json` counts it.

Files of an episode are put in place first, lines of metadata appended next, and `info.json` replaced last. What a killed
writer left beyond that count is cut off and written over when the dataset is opened to be written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path

from vlascope_base.files import append_line, make_folders, replace_file

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import move, write_json
from vlascope_datasets.info import INFO, DatasetInfo, read_info
from vlascope_datasets.statistics import to_lists
from vlascope_datasets.versions.prepared import Prepared
from vlascope_datasets.versions.read_v2 import EPISODE_STATISTICS, EPISODES, TASKS, data_file, video_file


class WriterV2:
    """Puts prepared episodes where v2.1 has them.

    Attributes:
        info: as last committed.
        tasks: instruction by task index, committed ones.
    """

    # an episode is a file: small groups make one image cheap to reach
    row_group = 32

    def __init__(self, root: Path, info: DatasetInfo, tasks: Mapping[int, str]):
        self.root, self.info, self.tasks = root, info, dict(tasks)
        if info.total_episodes == 0:
            write_json(root / INFO, info.to_map())
        self._cut_back()

    def _cut_back(self) -> None:
        """Cuts off lines of metadata beyond what is committed."""
        _keep_lines(self.root / TASKS, "task_index", set(self.tasks))
        for name in (EPISODES, EPISODE_STATISTICS):
            _keep_lines(self.root / name, "episode_index", set(range(self.info.total_episodes)))

    def commit(self, episode: Prepared, info: DatasetInfo, tasks: Mapping[int, str]) -> None:
        """Adds one episode; it exists once this returns, and not before its last step.

        Where this raises, `info` and `tasks` say whether it exists: an interrupt may come after that step.

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
            for index, task in tasks.items():
                if index not in self.tasks:
                    append_line(self.root / TASKS, {"task_index": index, "task": task})
            line = {"episode_index": number, "tasks": list(episode.tasks), "length": episode.length}
            append_line(
                self.root / EPISODE_STATISTICS, {"episode_index": number, "stats": to_lists(episode.statistics)}
            )
            append_line(self.root / EPISODES, line)
            write_json(self.root / INFO, info.to_map())
            self.info, self.tasks = info, dict(tasks)
        except BaseException:
            if read_info(self.root).total_episodes > number:
                self.info, self.tasks = info, dict(tasks)
            else:
                self._cut_back()
            raise

    def finish(self) -> None:
        """Nothing is left to do: every episode was committed."""

    def waiting(self) -> list[Prepared]:
        """Episodes that wait for `finish`: none."""
        return []


def _keep_lines(path: Path, key: str, wanted: Set[int]) -> None:
    """Leaves the lines of a file whose `key` is wanted, as they are; the file is made where it is missing.

    A last line may lack its end: others write it so. One that was not written to its end is no JSON, and is left out.

    Raises:
        DamagedError: a number is missing, or another line has none.
    """
    if not path.is_file():
        make_folders(path.parent)
        path.touch()
        return
    content = path.read_bytes()
    lines, kept, found = content.split(b"\n"), [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            index = int(json.loads(line)[key])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DamagedError(f"{path}: line {number} has no {key} ({error})") from error
        if index in wanted:
            kept.append(line + b"\n")
            found.add(index)
    if missing := sorted(wanted - found):
        raise DamagedError(f"{path}: {key} {missing[0]} is missing, one of {len(wanted)}")
    if (whole := b"".join(kept)) != content:
        replace_file(path, whole)
