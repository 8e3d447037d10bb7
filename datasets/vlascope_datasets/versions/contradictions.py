"""What a dataset's metadata say twice. Where they say it differently, one of the two is wrong, and neither is to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vlascope_datasets.info import INFO, DatasetInfo
from vlascope_datasets.records import EpisodeRowRecord, VideoRecord


class Contradiction(NamedTuple):
    """Two values of one fact.

    Attributes:
        file: that gives one of them, relative to the dataset.
        detail: one line with both.
    """

    file: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


def of_counts(
    info: DatasetInfo, tasks: Mapping[int, str], listed: Sequence[tuple[str, ...]], frames: int
) -> list[Contradiction]:
    """Where the counts of `info.json` are not those of what is listed.

    More tasks may be listed than it counts, as long as no episode uses them: a writer that was killed leaves such.

    Args:
        info: of the dataset.
        tasks: instruction by task index.
        listed: the instructions of each episode.
        frames: of all episodes.
    """
    found = []
    if "total_frames" not in info.uncounted and info.total_frames != frames:
        detail = f"total_frames is {info.total_frames}, the lengths of the episodes add up to {frames}"
        found.append(Contradiction(INFO, detail))
    used = {task for each in listed for task in each}
    beyond = used.intersection(list(tasks.values())[info.total_tasks :])
    if "total_tasks" not in info.uncounted and (info.total_tasks > len(tasks) or beyond):
        found.append(Contradiction(INFO, f"total_tasks is {info.total_tasks}, {len(tasks)} are listed"))
    return found


def of_frame_numbers(row: EpisodeRowRecord, file: str, first: int) -> list[Contradiction]:
    """Where a row of v3.0's `meta/episodes` numbers its frames otherwise than the lengths before it do.

    Args:
        row: of one episode.
        file: that it was read from, relative to the dataset.
        first: number of its first frame, after the lengths of the episodes before it.
    """
    found, episode = [], f"episode {row.episode_index}"
    for name, value, due in (
        ("dataset_from_index", row.dataset_from_index, first),
        ("dataset_to_index", row.dataset_to_index, first + row.length),
    ):
        if value is not None and value != due:
            found.append(Contradiction(file, f"{episode}: {name} is {value}, the lengths add up to {due}"))
    return found


class Film:
    """The episodes of one video file of v3.0, in order: each begins where the one before it ends.

    Attributes:
        episodes: their numbers.
    """

    def __init__(self, key: str, fps: float):
        self.episodes: list[int] = []
        self._key, self._fps = key, fps
        self._due, self._stop = 0.0, 0.0

    def add(self, row: EpisodeRowRecord, place: VideoRecord, file: str) -> tuple[bool, list[Contradiction]]:
        """Takes in the next episode.

        Args:
            row: of the episode.
            place: where it says that its video lies.
            file: that it was read from, relative to the dataset.

        Returns:
            Whether it begins where the lengths before it say, to half a frame, and contradictions. A camera that ran slower or
            faster than the dataset's frame rate makes it begin elsewhere: where the one before it ends. Then only the rows'
            timestamps can tell whether that is true.
        """
        if not row.length:  # it is shown nowhere
            return True, []
        half, start, found = 0.5 / self._fps, place.from_timestamp, []
        even = abs(start - self._due) <= half
        if not even and not (self.episodes and abs(start - self._stop) <= half):
            due = f"the lengths before it in the file add up to {self._due:g} s"
            if self.episodes:
                due += f", and the episode before it ends at {self._stop:g} s"
            detail = f"episode {row.episode_index}: {self._key}: from_timestamp is {start:g} s, {due}"
            found.append(Contradiction(file, detail))
        length = row.length / self._fps
        self._due += length
        self._stop = start + length if place.to_timestamp is None else place.to_timestamp
        self.episodes.append(row.episode_index)
        return even, found
