"""Everything that a person decides about a training run, as one frozen value. Knows nothing of how it is carried out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from vlascope_server.training.errors import TrainingError

MAY_CHANGE = frozenset(
    {
        "resume",
        "steps",
        "minutes",
        "save_every",
        "save_minutes",
        "keep",
        "log_every",
        "validate_every",
        "workers",
        "prefetch",
        "cache_images",
    }
)
"""Options that a resumed run may be given anew: none but `steps` (the cosine's length) changes a number that it computes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A run.

    Attributes:
        dataset: folder of a LeRobot dataset.
        output: folder of the run.
        init: a checkpoint, or a preset's name.
        steps: optimiser steps; None takes as many as fit into `minutes`, from the speed of the first ones.
        minutes: with `steps`, when to save and stop, to be resumed later.
        batch_size: observations a step, over all devices.
        flow_samples: draws of noise and flow time on each observation; they share the pass over images and text.
            With grounding, 0 trains on that alone.
        grounding: weight of saying where in the images the told object is, and its place, beside the actions; see
            `grounding.py`.
        accumulate: parts that a batch is taken through the model in, one after the other: memory for one of them, and the
            same gradient but for rounding.
        learning_rate: at its peak; None is 1e-3 for drawn weights and 2.5e-5, the reference's, for loaded ones.
        warmup: steps of linear rise.
        final_share: of the peak, where the cosine ends.
        weight_decay: decoupled; on matrices only.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are what is saved and served; 0 averages nothing.
        lora: rank of adapters; None trains every parameter.
        lora_alpha: their scale; the rank unless told.
        norm_stats: `dataset` measures them, `checkpoint` keeps those of `init`; `auto` keeps where there are some.
        episodes: which, as numbers; None is all.
        tasks: instructions to keep; None is all.
        first_steps, first_repeats: an episode's first so many frames come so many times an epoch.
        validation: share of the episodes that are held out.
        pad: at an episode's end, `mask` actions that are not there, or `repeat` the last as the reference does.
        columns: observation key (or `actions`) -> the dataset's column, where the usual names do not fit.
        robot, preset, asset_id, action_horizon, max_token_len, delta_actions: overrule the checkpoint.
        trained_on: goes into the checkpoint's record, so that a client can compare.
        dtype: of activations; parameters are float32. `auto` is bfloat16 on an accelerator and float32 on a CPU.
        remat: compute activations again in the backward pass, to save memory; None does on an accelerator.
        augment: random shifts, brightness, contrast and saturation of images.
        shift: of images, at most, as a share of their side.
        state_noise: standard deviation added to the normalised state.
        cache_images: keep resized images on disk; without, each is decoded every time.
        tolerance_s: seconds that a video's frame may be off its row's timestamp.
        seed: of everything that is drawn.
        save_every, save_minutes: how often to save: every so many steps, or minutes, whichever comes first.
        keep: checkpoints that stay; 0 keeps all.
        log_every, validate_every: steps.
        workers, prefetch: threads that make batches, and batches made ahead.
        resume: go on with the run in `output`.
    """

    dataset: Path
    output: Path
    init: str = "tiny-drawn"
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    flow_samples: int = 4
    grounding: float = 0.0
    accumulate: int = 1
    learning_rate: float | None = None
    warmup: int = 100
    final_share: float = 0.02
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.995
    lora: int | None = None
    lora_alpha: float | None = None
    norm_stats: Literal["auto", "dataset", "checkpoint"] = "auto"
    episodes: tuple[int, ...] | None = None
    tasks: tuple[str, ...] | None = None
    first_steps: int = 0
    first_repeats: int = 1
    validation: float = 0.05
    pad: Literal["mask", "repeat"] = "mask"
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    robot: str | None = None
    preset: str | None = None
    asset_id: str | None = None
    action_horizon: int | None = None
    max_token_len: int | None = None
    delta_actions: bool | None = None
    trained_on: dict[str, str] = dataclasses.field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: bool | None = None
    augment: bool = True
    shift: float = 0.05
    state_noise: float = 0.03
    cache_images: bool = True
    tolerance_s: float = 1e-4
    seed: int = 0
    save_every: int = 1000
    save_minutes: float = 15.0
    keep: int = 2
    log_every: int = 10
    validate_every: int = 200
    workers: int = 2
    prefetch: int = 4
    resume: bool = False

    def __post_init__(self):
        """Raises `TrainingError` that names the first option out of its range."""
        if self.steps is None and self.minutes is None:
            raise TrainingError("steps and minutes: neither was given; say how long to train")
        positive = ("steps", "minutes", "batch_size", "learning_rate", "clip", "lora", "lora_alpha")
        counts = (
            "accumulate",
            "first_repeats",
            "save_every",
            "save_minutes",
            "log_every",
            "validate_every",
            "workers",
            "prefetch",
        )
        for field in (*positive, *counts):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise TrainingError(f"{field}: expected more than 0, found {value}")
        for field in (
            "flow_samples",
            "grounding",
            "first_steps",
            "warmup",
            "weight_decay",
            "state_noise",
            "keep",
            "seed",
        ):
            if not getattr(self, field) >= 0:
                raise TrainingError(f"{field}: expected 0 or more, found {getattr(self, field)}")
        for field in ("ema", "validation", "shift"):
            if not 0 <= getattr(self, field) < 1:
                raise TrainingError(f"{field}: expected at least 0 and less than 1, found {getattr(self, field)}")
        if not 0 <= self.final_share <= 1:
            raise TrainingError(f"final_share: expected 0 to 1, found {self.final_share}")
        if self.batch_size % self.accumulate:
            raise TrainingError(f"accumulate: {self.accumulate} parts of a batch of {self.batch_size} are not equal")
        if not (self.flow_samples or self.grounding):
            raise TrainingError(
                "flow_samples: 0 leaves nothing to train on; give --grounding a weight, or draw samples"
            )
        if self.lora is None and self.lora_alpha is not None:
            raise TrainingError("lora_alpha: is of adapters, and --lora gives none their rank; give both or neither")
