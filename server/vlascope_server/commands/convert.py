"""`vlascope-server convert`: a checkpoint from one of the reference's formats to the other. Knows nothing of either."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlascope_server.commands.options import LogLevel


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a checkpoint anew as Orbax or as safetensors, with its statistics. Without --dtype the values stay exact."""

    source: Annotated[str, tyro.conf.Positional]
    """A step folder, its params/, a safetensors file, a URL (downloaded to the cache first), or a preset's name."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A folder that does not exist yet."""
    to: Literal["orbax", "safetensors"]
    """The format to write."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the parameters; without it each stays as it is stored."""
    preset: str | None = None
    """Fills in what neither the parameters nor vlascope.json say."""
    log_level: LogLevel = "info"
    """How much to log, to stderr."""

    def run(self) -> None:
        """Writes the folder, and in it `convert.json` with these options."""
        from vlascope_server.checkpoints import convert_checkpoint, opened
        from vlascope_server.checkpoints.weights import nbytes

        with opened(self.source, self.preset) as source:
            size = nbytes(source.weights, self.dtype)
            print(f"writing about {size / 1e9:.3f} GB to {self.destination}", file=sys.stderr)
            folder = convert_checkpoint(source, self.destination, self.to, self.dtype)
        options = json.dumps(dataclasses.asdict(self), default=str, indent=2)
        (folder / "convert.json").write_text(options + "\n", encoding="utf-8")
        print(folder)
