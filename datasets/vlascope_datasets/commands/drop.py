"""`vlascope-datasets drop`: a dataset without some of its episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from vlascope_datasets.commands.options import TimedOptions, progress


@dataclasses.dataclass(kw_only=True)
class Drop(TimedOptions):
    """Copies a LeRobot dataset without some episodes; the source stays as it is, and those that are left are numbered anew."""

    source: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to; absent or empty. Of the source's version; v2.1 of a v2.0 source."""
    episodes: str | None = None
    """Numbers of the episodes to leave out, such as 3,7-9."""
    empty: bool = False
    """Leave out every episode without frames too."""

    def run(self) -> int:
        """Prints the cost, then copies."""
        from vlascope_datasets.converting import convert_dataset
        from vlascope_datasets.copying import without
        from vlascope_datasets.errors import DatasetError
        from vlascope_datasets.files import folder_bytes
        from vlascope_datasets.numbers import listed_numbers
        from vlascope_datasets.reader import LeRobotDataset
        from vlascope_datasets.units import readable_bytes

        if self.episodes is None and not self.empty:
            raise DatasetError("drop: say what to leave out: --episodes 3,7-9, or --empty for those without frames")
        source = LeRobotDataset.open(self.source, tolerance_s=self.tolerance_s)
        dropped = () if self.episodes is None else listed_numbers(self.episodes, "--episodes")
        episodes = without(source, dropped, empty=self.empty)
        version = "v3.0" if source.info.version == "v3.0" else "v2.1"
        print(f"{source!r}: {len(episodes)} stay, at most {readable_bytes(folder_bytes(source.root))} to write")
        with progress("copying", len(episodes)) as advance:
            copy = convert_dataset(source, self.out, version, advance, episodes)["copy"]
        print(f"{self.out}: {version}, {copy['episodes']} episodes, {copy['frames']} frames, {copy['checksum']}")
        return 0
