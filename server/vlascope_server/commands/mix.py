"""`vlascope-server mix`: several checkpoints become one."""

from __future__ import annotations

import dataclasses
import os
import sys

from vlascope_base import VlascopeError

from vlascope_server.mixing.options import MixOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix(MixOptions):
    """Mixes checkpoints of one architecture into one, which is served like any other.

    The weights of the checkpoints are given, or found on validation data; with --base, what fine-tuning changed is added up.
    Writes the checkpoint, its statistics, a report in words, a figure and JSON.
    """

    def run(self) -> None:
        """Prints whether mixing helped, and where the checkpoint is."""
        if self.gpu_ids is not None:
            # before JAX looks for devices
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu_ids
        try:
            from vlascope_server.mixing.files import write_mix
            from vlascope_server.mixing.mix import mix
            from vlascope_server.mixing.output import free_output
            from vlascope_server.mixing.report import conclusion
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"mix needs {package}: install vlascope-server[train]") from error
        from vlascope_base.progress import shown

        output = free_output(self)
        self._say_devices()
        with shown() as progress:
            mixed = mix(self, progress)
        checkpoint = write_mix(mixed, output)
        print(conclusion(mixed))
        for file in sorted(output.iterdir()):
            print(file)
        print(f"serve it: vlascope-server serve --checkpoint {checkpoint}")

    def _say_devices(self) -> None:
        """Where the reference's options for GPUs mean nothing, a word says so."""
        if not (self.use_gpu or self.gpu_ids is not None):
            return
        if self.data_path is None:
            print("--use-gpu, --gpu-ids: without --data-path nothing is computed on a GPU", file=sys.stderr)
            return
        import jax

        if jax.default_backend() == "cpu":
            print("--use-gpu, --gpu-ids: JAX finds no GPU here, and computes on the CPU", file=sys.stderr)
