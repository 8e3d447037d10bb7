"""`vlascope-server dump-data`: frames of a dataset on which mixtures of checkpoints are chosen and judged."""

from __future__ import annotations

import dataclasses

from vlascope_base import VlascopeError

from vlascope_server.commands.train import INSTALL
from vlascope_server.mixing.dump_options import DumpOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DumpData(DumpOptions):
    """Writes validation data: frames of a LeRobot dataset as training shows them to a policy, not augmented, in one file.

    The frames are of two parts, and no episode is in both: weights of a mixture are chosen on `selection`, and the mixture is
    judged on `validation`. No weights are read, and nothing is computed on an accelerator.
    """

    def run(self) -> None:
        """Prints the file."""
        try:
            from vlascope_server.mixing.dump import dump_validation_data
            from vlascope_server.mixing.facts import PARTS
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"dump-data needs {package}: run this in a clone of vlascope: {INSTALL}") from error
        from vlascope_base.progress import shown

        with shown() as progress:
            dumped = dump_validation_data(self, progress)
        for part, frames, episodes in zip(PARTS, dumped.frames, dumped.episodes, strict=True):
            print(f"{part}: {frames} frames of {episodes} episodes")
        print(dumped.path)
