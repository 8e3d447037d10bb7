"""`vlascope-datasets convert`: a dataset in another version of the format."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vlascope_base.progress import shown
from vlascope_base.text import readable_bytes

from vlascope_datasets.commands.options import CopyOptions, EmptyEpisodesOptions
from vlascope_datasets.converting import convert_dataset
from vlascope_datasets.copying import without
from vlascope_datasets.files import folder_bytes
from vlascope_datasets.reader import LeRobotDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(EmptyEpisodesOptions, CopyOptions):
    """Writes a LeRobot dataset (v2.0, v2.1 or v3.0) as v2.1 or v3.0; images and encoded video stay as they are."""

    version: Literal["v2.1", "v3.0"]
    """To write. openpi reads v2.1."""

    def run(self) -> int:
        """Prints the cost, then converts."""
        source = LeRobotDataset.open(self.source, tolerance_s=self.tolerance_s)
        print(f"{source!r}: about {readable_bytes(folder_bytes(source.root))} to write")
        episodes = without(source, empty=self.empty == "drop")
        with shown() as progress:
            copy = convert_dataset(source, self.out, self.version, progress, episodes)["copy"]
        print(f"{self.out}: {self.version}, {copy['episodes']} episodes, {copy['frames']} frames, {copy['checksum']}")
        return 0
