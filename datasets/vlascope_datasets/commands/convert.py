"""`vlascope-datasets convert`: a dataset in another version of the format. Knows nothing of formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlascope_datasets.commands.options import Options, progress


@dataclasses.dataclass(kw_only=True)
class Convert(Options):
    """Writes a LeRobot dataset (v2.0, v2.1 or v3.0) as v2.1 or v3.0; images and encoded video stay as they are."""

    source: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to; absent or empty."""
    version: Literal["v2.1", "v3.0"]
    """To write. openpi reads v2.1."""

    def run(self) -> int:
        """Prints the cost, then converts."""
        from vlascope_datasets.checksums import as_text
        from vlascope_datasets.copying import copy_episodes
        from vlascope_datasets.files import folder_bytes, write_json
        from vlascope_datasets.provenance import provenance
        from vlascope_datasets.reader import LeRobotDataset
        from vlascope_datasets.splitting import describe, identity
        from vlascope_datasets.units import readable_bytes

        source = LeRobotDataset.open(self.source)
        print(f"{source!r}: about {readable_bytes(folder_bytes(source.root))} to write")
        with progress("converting", len(source.episodes)) as advance:
            copied = copy_episodes(source, range(len(source.episodes)), self.out, self.version, advance)
        record = {"configuration": dataclasses.asdict(self), "source": identity(source), "copy": describe(copied)}
        configuration = {key: str(value) for key, value in record["configuration"].items()}
        write_json(self.out / "meta" / "convert.json", record | {"configuration": configuration, **provenance()})
        print(
            f"{self.out}: {self.version}, {len(copied.episodes)} episodes, {copied.frames} frames, {as_text(copied.checksum)}"
        )
        return 0
