"""Everything that a person decides about a training run, as one frozen value, and the error that names what does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from vlascope_base import VlascopeError
from vlascope_base.options import CommandOptions

from vlascope_server.options import CheckpointOptions, EpisodeOptions

MAY_CHANGE = frozenset(
    {
        "log_level",
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


class TrainingError(VlascopeError):
    """Training that cannot begin or go on; one line: what was wrong, which value, what was allowed, what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(EpisodeOptions, CheckpointOptions):
    """Which frames of a dataset, and how a policy is shown them."""

    dataset: Path
    """Folder of a LeRobot dataset."""
    norm_stats: Literal["auto", "dataset", "checkpoint"] = "auto"
    """Statistics to normalise with: measured on the dataset, or kept from the checkpoint; auto keeps those that loaded weights
    have."""
    pad: Literal["mask", "repeat"] = "mask"
    """Actions beyond an episode's end: they do not count, or the last one is repeated, as in the reference."""
    robot: str | None = None
    """Whose observations these are: libero, droid or aloha; the checkpoint says so where it knows."""
    delta_actions: bool | None = None
    """Whether the state is subtracted from actions; unless given, as the checkpoint says, or as is usual for its robot."""
    seed: int = 0
    """Seed of everything that is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions, CommandOptions):
    """A training run.

    Raises:
        TrainingError: an option is out of its range, or contradicts another; the message begins with its name.
    """

    output: Path
    """Folder of the run: new, or with --resume one to go on with."""
    init: str = "tiny-drawn"
    """What to begin with: a checkpoint (folder, URL), or a preset's name; the weights of tiny-drawn and tiny-pi05 are drawn."""
    steps: int | None = None
    """Optimiser steps; without, as many as fit into --minutes, by the speed of the first ones."""
    minutes: float | None = None
    """How long to train, in minutes; with --steps, the time after which the run saves and stops, to be resumed."""
    batch_size: int = 64
    """Observations in one step, over all devices."""
    flow_samples: int = 4
    """Draws of noise and flow time on each observation; they share the pass over images and text, which costs most."""
    grounding: float = 0.0
    """Weight of a second objective beside the actions: to say where in the images the told object is, and where its place is.
    The dataset needs columns such as `image_target` and `image_place`. With --flow-samples 0, it is the only objective."""
    accumulate: int = 1
    """Parts that a batch is taken through the model in, one after the other: it takes less memory, and on a CPU less time."""
    learning_rate: float | None = None
    """Learning rate at its peak; unless given, 1e-3 for drawn weights and 2.5e-5, the reference's, for loaded ones."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly; after them it falls as a cosine."""
    final_share: float = 0.02
    """Learning rate at the last step, as a share of the peak."""
    weight_decay: float = 1e-3
    """Decoupled weight decay, on matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.995
    """Decay of the averaged weights, which are what is saved and served; 0 averages nothing."""
    lora: int | None = None
    """Rank of LoRA adapters, which are trained instead of the language model's weights."""
    lora_alpha: float | None = None
    """Scale of the adapters; the rank unless given."""
    first_steps: int = 0
    """With --first-repeats: so many frames at the start of an episode come more often. They decide what it reaches for, and
    there the instruction matters most."""
    first_repeats: int = 1
    """How many times an epoch these first frames come."""
    validation: float = 0.05
    """Share of the episodes that are held out."""
    asset_id: str | None = None
    """Name of the statistics in what is saved; with --norm-stats checkpoint, which of the checkpoint's are kept."""
    trained_on: dict[str, str] = dataclasses.field(default_factory=dict)
    """Pairs for the checkpoint's record, such as `render fast`: clients compare them with where they act."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of activations; auto is bfloat16 on an accelerator and float32 on a CPU. Parameters are float32."""
    remat: bool | None = None
    """Compute activations again in the backward pass, to save memory; done on an accelerator unless given."""
    augment: bool = True
    """Shift images, change their brightness, contrast and saturation, and add noise to the state."""
    shift: float = 0.05
    """How far an image is shifted at most, as a share of its side; 0 where the camera never moves."""
    state_noise: float = 0.03
    """Standard deviation of the noise that is added to the state, in standard deviations of the state."""
    cache_images: bool = True
    """Keep resized images in the cache folder; without, each is decoded every time."""
    save_every: int = 1000
    """Steps from one checkpoint to the next."""
    save_minutes: float = 15.0
    """Minutes after which a checkpoint is saved even before --save-every steps."""
    keep: int = 2
    """Checkpoints that stay; 0 keeps all."""
    log_every: int = 10
    """Steps from one line of metrics to the next."""
    validate_every: int = 200
    """Steps from one look at the held-out episodes to the next."""
    workers: int = 2
    """Threads that make batches."""
    prefetch: int = 4
    """Batches that are made ahead."""
    resume: bool = False
    """Go on with the run in --output; it begins where there is none."""

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
