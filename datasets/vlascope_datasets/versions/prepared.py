"""An episode that is written and not yet in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlascope_datasets.statistics import Statistics, to_arrays, to_lists

# where a writer puts episodes together, and for v3.0 keeps them until they are joined
STAGING = ".staging"
FRESH = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Files and facts of one episode.

    Attributes:
        index: its number.
        first_frame: number of its first frame in the dataset.
        length: frames.
        tasks: instructions that occur in it.
        statistics: by feature.
        table: its Parquet file.
        videos: by camera, its video.
    """

    index: int
    first_frame: int
    length: int
    tasks: tuple[str, ...]
    statistics: Statistics
    table: Path
    videos: Mapping[str, Path]

    def to_map(self) -> dict[str, Any]:
        """For JSON; files by name."""
        return {
            **{name: getattr(self, name) for name in ("index", "first_frame", "length", "tasks")},
            "statistics": to_lists(self.statistics),
            "table": self.table.name,
            "videos": {key: path.name for key, path in self.videos.items()},
        }

    @classmethod
    def from_map(cls, kept: Mapping[str, Any], folder: Path) -> Prepared:
        """From JSON; the files lie in `folder`."""
        return cls(
            kept["index"],
            kept["first_frame"],
            kept["length"],
            tuple(kept["tasks"]),
            to_arrays(kept["statistics"]),
            folder / kept["table"],
            {key: folder / name for key, name in kept["videos"].items()},
        )
