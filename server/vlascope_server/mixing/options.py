"""Everything that a person decides about a mix, as one frozen value. Importing it does not import JAX."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from vlascope_base.options import CommandOptions

from vlascope_server.mixing.errors import MixingError
from vlascope_server.options import COMPONENTS, CheckpointOptions

Method = Literal["average", "inverse_loss", "gradient_descent", "adaptive_gradient_descent", "greedy"]
NEEDS_DATA: tuple[Method, ...] = ("inverse_loss", "gradient_descent", "adaptive_gradient_descent", "greedy")
BY_GRADIENT: tuple[Method, ...] = ("gradient_descent", "adaptive_gradient_descent")
METHODS: tuple[Method, ...] = ("average", *NEEDS_DATA)
"""What `all` tries, in this order."""
_LARGEST_SCALE = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixOptions(CheckpointOptions, CommandOptions):
    """Mixes checkpoints of one architecture into one.

    Raises:
        MixingError: an option is out of its range, or contradicts another; the message begins with its name.
    """

    checkpoints: tuple[str, ...]
    """The checkpoints: step folders, safetensors files, URLs or names of presets, of any formats."""
    output: Path
    """Folder to write: 0/ (Orbax) or model.safetensors in it, with norm_stats.json, the report, a figure and JSON."""
    optimize_method: Literal[Method, "all"] | None = None
    """How the weights of the checkpoints are found; `all` tries every method and writes what has the lowest loss on the
    selection episodes."""
    weights: tuple[float, ...] | None = None
    """The weights themselves, one for each checkpoint; they are divided by their sum."""
    data_path: Path | None = None
    """Validation data that `dump-data` wrote. Methods that look at losses need it; with the others, losses are reported."""
    num_iterations: int = 50
    """Steps of gradient descent."""
    learning_rate: float = 0.05
    """Of gradient descent's Adam; it falls to 0 as a cosine."""
    batch_size: int = 32
    """Frames in one step of gradient descent, and in one pass when losses are measured."""
    flow_samples: int = 4
    """Draws of noise and flow time on each frame; all checkpoints and mixes see the same."""
    seed: int = 0
    """Of these draws, of the order of frames, and of what DARE drops."""
    weights_by: Literal["checkpoint", "component", "layer"] = "checkpoint"
    """What has a weight of its own: a checkpoint; each of its components (vision, vlm, action expert, projections: --weights
    gives those of all checkpoints for the first, then for the next); or each of its layers (gradient descent alone)."""
    base: str | None = None
    """Task arithmetic: what the checkpoints were fine-tuned from. Their differences from it are scaled and added to it."""
    scale: tuple[float, ...] = (1.0,)
    """With --base: factors of the differences, one for all or one for each checkpoint; negative ones unlearn."""
    combine: Literal["sum", "ties", "dare"] = "sum"
    """With --base: how the differences are combined. `ties` keeps the largest of each, elects a sign for each parameter's value
    and takes the mean of those that agree; `dare` drops values at random and scales up the rest, then adds."""
    density: float | None = None
    """Share of each difference that `ties` (0.2 unless given) or `dare` (0.5 unless given) keeps."""
    lora: Literal["factors", "delta"] = "factors"
    """Of LoRA adapters, mix the factors, as the reference does, or the products of the factors, added to the weights that they
    change: exact, without adapters in the result, and the way to mix adapters with full fine-tunes."""
    norm_stats: Path | None = None
    """A norm_stats.json for the mix, instead of the checkpoints' own."""
    to: Literal["orbax", "safetensors"] | None = None
    """Format to write; that of the first checkpoint unless given."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations when losses are measured; auto is float32 on a CPU and bfloat16 elsewhere."""
    overwrite: bool = False
    """Replace an earlier mix in --output."""
    config: str | None = None
    """As --preset; the reference's name for it."""
    use_gpu: bool = False
    """Accepted because the reference has it: JAX takes a GPU where there is one."""
    gpu_ids: str | None = None
    """Numbers of the GPUs that may be used, such as 0 or 0,1."""

    def __post_init__(self) -> None:
        """Raises `MixingError` for what no checkpoint has to be opened for."""
        count = len(self.checkpoints)
        given = [n for n in ("optimize_method", "weights", "base") if getattr(self, n) is not None]
        if len(given) != 1:
            raise MixingError(
                f"expected one of --optimize-method, --weights and --base, found {_options(given) or 'none'}: the first finds"
                " weights, the second gives them, the third does task arithmetic"
            )
        if self.base == "":
            raise MixingError("base: expected a checkpoint, found an empty text")
        if count < (1 if self.base else 2):
            raise MixingError(f"checkpoints: expected at least {1 if self.base else 2}, found {count}")
        for name, least in (("num_iterations", 1), ("batch_size", 1), ("flow_samples", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise MixingError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise MixingError(f"learning_rate: expected a number above 0, found {self.learning_rate}")
        if self.config and self.preset and self.config != self.preset:
            raise MixingError(f"config and preset: are the same option; found {self.config} and {self.preset}")
        self._check_weights(count)
        self._check_tasks(count)

    def _check_weights(self, count: int) -> None:
        method, by = self.optimize_method, self.weights_by
        if method in (*NEEDS_DATA, "all") and self.data_path is None:
            raise MixingError(
                f"data_path: {method} looks at losses on validation data; write some with"
                " vlascope-server dump-data --dataset DIR --checkpoint CHECKPOINT --output FILE.zarr.zip"
            )
        if by != "checkpoint" and not (method in BY_GRADIENT or (self.weights and by == "component")):
            fit = "--optimize-method gradient_descent or adaptive_gradient_descent"
            also = " or with --weights" if by == "component" else ""
            raise MixingError(f"weights_by: {by} goes with {fit}{also}")
        if self.weights is None:
            return
        expected = count * (len(COMPONENTS) if by == "component" else 1)
        if len(self.weights) != expected:
            each = (
                f": {count} for each of {', '.join(COMPONENTS)}" if by == "component" else ", one for each checkpoint"
            )
            raise MixingError(f"weights: expected {expected}{each}; found {len(self.weights)}")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights):
            raise MixingError(
                f"weights: expected numbers of at least 0, found {list(self.weights)}; --base may subtract"
            )
        for start in range(0, expected, count):
            if not sum(self.weights[start : start + count]) > 0:
                raise MixingError(f"weights: expected one above 0, found {list(self.weights[start : start + count])}")

    def _check_tasks(self, count: int) -> None:
        if not self.base:
            for name in ("scale", "combine", "density"):
                default = type(self).__dataclass_fields__[name].default
                if getattr(self, name) != default:
                    raise MixingError(f"{name}: goes with --base, the checkpoint that the others were fine-tuned from")
            return
        if len(self.scale) not in ((1,) if self.combine == "ties" else (1, count)):
            several = f" for all, or {count}, one for each checkpoint" if count > 1 else ""
            each = "one, since ties merges before it scales" if self.combine == "ties" else f"one{several}"
            raise MixingError(f"scale: expected {each}; found {len(self.scale)}")
        if not all(abs(scale) <= _LARGEST_SCALE for scale in self.scale):
            raise MixingError(
                f"scale: expected numbers of at most {_LARGEST_SCALE:g} in size, found {list(self.scale)}"
            )
        if self.density is not None and self.combine == "sum":
            raise MixingError("density: goes with --combine ties or dare")
        if self.density is not None and not 0 < self.density <= 1:
            raise MixingError(f"density: expected a share above 0 and at most 1, found {self.density}")

    @property
    def named_preset(self) -> str | None:
        """The preset, by either of its names."""
        return self.preset or self.config

    @property
    def kept(self) -> float:
        """Share of a difference's values that `ties` or `dare` keeps. TIES keeps a fifth in its paper's recommendation."""
        return self.density if self.density is not None else {"sum": 1.0, "ties": 0.2, "dare": 0.5}[self.combine]


def _options(names: list[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in names)
