"""What a dataset's metadata say of its episodes, whatever the version. Knows nothing of files' contents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from vlascope_datasets.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class VideoSpan:
    """Where an episode's images of one camera lie.

    Attributes:
        file: relative to the dataset.
        start: second of the first frame.
        alone: no other episode lies in the file.
    """

    file: str
    start: float
    alone: bool


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
        tasks: instruction by `task_index`.
        episodes: in order.
        statistics: of the whole dataset, when called; empty where the dataset keeps none.
        episode_statistics: by episode, when called; an episode that the dataset keeps none of is left out.
    """

    tasks: dict[int, str]
    episodes: tuple[Episode, ...]
    statistics: Callable[[], Statistics]
    episode_statistics: Callable[[], dict[int, Statistics]]
