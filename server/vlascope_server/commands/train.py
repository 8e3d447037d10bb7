"""`vlascope-server train`: a policy on a LeRobot dataset."""

from __future__ import annotations

import dataclasses

from vlascope_base import VlascopeError
from vlascope_base.options import ConfigFile

from vlascope_server.training.options import TrainOptions

INSTALL = 'pip install ./base ./client ./latents ./datasets "./server[serve,train]"'
"""Members of the house are on no index, so that pip finds what an extra needs in a clone alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(TrainOptions, ConfigFile):
    """Trains a preset or a checkpoint on a LeRobot dataset by flow matching, all of it or LoRA adapters.

    The output holds a checkpoint a step number (`<output>/1000`, which `serve` takes), `metrics.jsonl`, `loss.png` and
    `train.json`. SIGTERM and Ctrl-C save and end with 0; `--resume` goes on as if nothing had happened. `--config`
    takes a `train.json` too.
    """

    def run(self) -> None:
        """Prints the newest checkpoint."""
        try:
            from vlascope_server.compile_cache import use_compilation_cache
            from vlascope_server.training.trainer import train
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"train needs {package}: run this in a clone of vlascope: {INSTALL}") from error
        use_compilation_cache()  # a step takes a minute to compile, and a run that is resumed would wait for it again
        trained = train(self)
        print(trained.checkpoint if trained.finished else f"{trained.checkpoint} (not finished; go on with --resume)")
