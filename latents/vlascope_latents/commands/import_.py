"""`vlascope-latents import`: the reference's pickles as runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from vlascope_base.options import CommandOptions
from vlascope_base.progress import tracked
from vlascope_base.text import readable_bytes

from vlascope_latents.layout import ModelLayout
from vlascope_latents.store import StoreError
from vlascope_latents.store.reference_import import import_reference
from vlascope_latents.store.run_folder import ReadableBy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import(CommandOptions):
    """Makes a run of each of the reference's `task_*.pkl`; nothing in a pickle is run, only numpy arrays are read."""

    runs: Annotated[Path, tyro.conf.Positional]
    """Folder of runs to write to."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The pickles. Each passes through memory whole."""
    layout: Path | None = None
    """JSON file like `layout` in a run.json; the reference's own token spans unless given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How the numbers are stored."""
    readable_by: ReadableBy = "owner"
    """Who may read the runs: its owner alone, its group, or everyone."""

    def run(self) -> int:
        """Prints the cost, then imports file by file."""
        try:
            layout = ModelLayout.from_map(json.loads(self.layout.read_text())) if self.layout else None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.layout}: expected a layout as in run.json ({error})") from error
        sizes = {file: file.stat().st_size for file in self.files}
        largest = max(sizes.values(), default=0)
        print(f"{len(sizes)} pickles, {readable_bytes(sum(sizes.values()))}; up to {readable_bytes(largest)} in memory")
        for file in tracked(self.files, "importing"):
            print(import_reference(file, self.runs, layout=layout, dtype=self.dtype, readable_by=self.readable_by))
        return 0
