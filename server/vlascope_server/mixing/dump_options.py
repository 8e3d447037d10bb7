"""Everything that a person decides about validation data, as one frozen value. Importing it does not import JAX."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vlascope_base.options import CommandOptions

from vlascope_server.mixing.errors import MixingError
from vlascope_server.training.options import DataOptions

EPISODES_OF_A_PART = 2
"""At least: of a single episode nobody can say how far a loss would differ on another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DumpOptions(DataOptions, CommandOptions):
    """Validation data.

    Raises:
        MixingError: an option is out of its range; the message begins with its name.
    """

    output: Path
    """File to write, whose name ends in .zarr.zip."""
    checkpoint: str
    """Whose statistics, robot, horizon and tokenizer: a checkpoint (folder, URL), or a preset's name. No weights are read."""
    frames: int = 512
    """Frames in the file, spread evenly over its episodes; all where there are fewer."""
    validation_share: float = 0.5
    """Share of the episodes whose frames judge a mixture; weights are chosen on the frames of the others."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self):
        """Raises `MixingError` that names the first option out of its range."""
        if not self.output.name.endswith(".zarr.zip"):
            raise MixingError(f"output: expected a name that ends in .zarr.zip, found {self.output}")
        if self.frames < (least := 2 * EPISODES_OF_A_PART):
            raise MixingError(
                f"frames: expected at least {least}, one from each of {EPISODES_OF_A_PART} episodes to choose weights on and"
                f" {EPISODES_OF_A_PART} to judge them; found {self.frames}"
            )
        if not 0 < self.validation_share < 1:
            raise MixingError(f"validation_share: expected more than 0 and less than 1, found {self.validation_share}")
        if self.seed < 0:
            raise MixingError(f"seed: expected 0 or more, found {self.seed}")
