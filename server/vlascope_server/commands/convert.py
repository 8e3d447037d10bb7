"""`vlascope-server convert`: a checkpoint from one format to another."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from vlascope_base.options import CommandOptions, record_of
from vlascope_base.text import readable_bytes

from vlascope_server.options import CheckpointOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(CheckpointOptions, CommandOptions):
    """Writes a checkpoint anew as Orbax, as safetensors or as LeRobot's policies are saved, with its statistics.

    Without --dtype the values stay exact.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A step folder, its params/, a safetensors file, a URL (downloaded to the cache first), or a preset's name."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A folder that does not exist yet."""
    to: Literal["orbax", "safetensors", "lerobot"]
    """The format to write: openpi's two, or LeRobot's, which has to know the lengths and one set of statistics."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the parameters; without it each stays as it is stored."""
    delta_actions: bool | None = None
    """Whether its actions are relative to the state, where nothing says."""

    def run(self) -> None:
        """Writes the folder, and in it `convert.json` with these options."""
        from vlascope_server.checkpoints import convert_checkpoint, opened
        from vlascope_server.checkpoints.record import asked_for
        from vlascope_server.checkpoints.weights import nbytes

        asked = dataclasses.replace(asked_for(self), delta_actions=self.delta_actions)
        with opened(self.source, self.preset, self.like) as opened_source:
            source = opened_source.asked(asked)
            size = nbytes(source.weights, self.dtype)
            print(f"writing about {readable_bytes(size)} to {self.destination}", file=sys.stderr)
            folder = convert_checkpoint(source, self.destination, self.to, self.dtype)
        options = json.dumps(record_of(self), default=str, indent=2)
        # what is left of a temporary file would be taken for half a download of the checkpoint
        (folder / "convert.json").write_text(options + "\n", encoding="utf-8")
        print(folder)
