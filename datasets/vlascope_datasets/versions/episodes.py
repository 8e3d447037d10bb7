"""What a dataset's metadata say of its episodes, whatever the version."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.statistics import Statistics
from vlascope_datasets.versions.contradictions import Contradiction


@dataclasses.dataclass(frozen=True)
class VideoSpan:
    """Where an episode's images of one camera lie.

    Attributes:
        file: relative to the dataset.
        start: second of the first frame.
        stop: second after the last frame; None where the format does not say.
        before: numbers of the episodes before this one in the file, where `start` is not what their lengths add up to: their
            rows have to tell why.
    """

    file: str
    start: float
    stop: float | None = None
    before: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        index: number of the episode.
        length: frames.
        tasks: instructions that occur in it.
        first_frame: number of its first frame in the dataset.
        file: its table, relative to the dataset.
        first_row: row of that table at which it begins.
        videos: by camera, where the dataset stores video.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    first_frame: int
    file: str
    first_row: int
    videos: Mapping[str, VideoSpan]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Everything but frames.

    Attributes:
        info: of the dataset, with every count.
        tasks: instruction by `task_index`.
        episodes: in order.
        statistics: of the whole dataset, when called; empty where the dataset keeps none.
        episode_statistics: by episode, when called; an episode that the dataset keeps none of is left out.
        contradictions: facts that the metadata give twice and differently.
    """

    info: DatasetInfo
    tasks: dict[int, str]
    episodes: tuple[Episode, ...]
    statistics: Callable[[], Statistics]
    episode_statistics: Callable[[], dict[int, Statistics]]
    contradictions: tuple[Contradiction, ...] = ()


def counted(info: DatasetInfo, tasks: Mapping[int, str], episodes: Sequence[Episode]) -> DatasetInfo:
    """`info` with the counts that its file does not give."""
    found = {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
    }
    return dataclasses.replace(info, **{name: found[name] for name in info.uncounted}, uncounted=())
