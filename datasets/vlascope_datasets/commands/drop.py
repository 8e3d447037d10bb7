"""`vlascope-datasets drop`: a dataset without some of its episodes."""

from __future__ import annotations

import dataclasses

from vlascope_base.options import Numbers
from vlascope_base.progress import shown
from vlascope_base.text import readable_bytes

from vlascope_datasets.commands.options import CopyOptions
from vlascope_datasets.converting import convert_dataset
from vlascope_datasets.copying import without
from vlascope_datasets.errors import DatasetError
from vlascope_datasets.files import folder_bytes
from vlascope_datasets.reader import LeRobotDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop(CopyOptions):
    """Copies a LeRobot dataset without some episodes; the source stays as it is, and those that are left are numbered anew.

    The copy is of the source's version, or v2.1 of a v2.0 source.
    """

    episodes: Numbers = ()
    """Numbers of the episodes to leave out, such as 3,7-9."""
    empty: bool = False
    """Leave out every episode without frames too."""

    def run(self) -> int:
        """Prints the cost, then copies."""
        if not self.episodes and not self.empty:
            raise DatasetError("drop: say what to leave out: --episodes 3,7-9, or --empty for those without frames")
        source = LeRobotDataset.open(self.source, tolerance_s=self.tolerance_s)
        episodes = without(source, self.episodes, empty=self.empty)
        version = "v3.0" if source.info.version == "v3.0" else "v2.1"
        print(f"{source!r}: {len(episodes)} stay, at most {readable_bytes(folder_bytes(source.root))} to write")
        with shown() as progress:
            copy = convert_dataset(source, self.out, version, progress, episodes)["copy"]
        print(f"{self.out}: {version}, {copy['episodes']} episodes, {copy['frames']} frames, {copy['checksum']}")
        return 0
