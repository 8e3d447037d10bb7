"""`vlascope-datasets convert`: a dataset in another version of the format. Knows nothing of formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlascope_datasets.commands.options import TimedOptions, progress


@dataclasses.dataclass(kw_only=True)
class Convert(TimedOptions):
    """Writes a LeRobot dataset (v2.0, v2.1 or v3.0) as v2.1 or v3.0; images and encoded video stay as they are."""

    source: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to; absent or empty."""
    version: Literal["v2.1", "v3.0"]
    """To write. openpi reads v2.1."""
    empty: Literal["keep", "drop"] = "keep"
    """What becomes of episodes without frames."""

    def run(self) -> int:
        """Prints the cost, then converts."""
        from vlascope_datasets.converting import convert_dataset
        from vlascope_datasets.copying import without
        from vlascope_datasets.files import folder_bytes
        from vlascope_datasets.reader import LeRobotDataset
        from vlascope_datasets.units import readable_bytes

        source = LeRobotDataset.open(self.source, tolerance_s=self.tolerance_s)
        print(f"{source!r}: about {readable_bytes(folder_bytes(source.root))} to write")
        episodes = without(source, empty=self.empty == "drop")
        with progress("converting", len(episodes)) as advance:
            copy = convert_dataset(source, self.out, self.version, advance, episodes)["copy"]
        print(f"{self.out}: {self.version}, {copy['episodes']} episodes, {copy['frames']} frames, {copy['checksum']}")
        return 0
