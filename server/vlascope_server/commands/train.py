"""`vlascope-server train`: a policy on a LeRobot dataset. Knows nothing of how it is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from vlascope_base import VlascopeError
from vlascope_base.options import LogLevel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Trains a preset or a checkpoint on a LeRobot dataset by flow matching, all of it or LoRA adapters.

    The output holds a checkpoint a step number (`<output>/1000`, which `serve` takes), `metrics.jsonl`, `loss.png` and
    `train.json`. SIGTERM and Ctrl-C save and end with 0; `--resume` goes on as if nothing had happened.
    """

    dataset: Path
    """Folder of a LeRobot dataset."""
    output: Path
    """Folder of the run: new, or with --resume one to go on with."""
    init: str = "tiny-drawn"
    """What to begin with: a checkpoint (folder, URL), or a preset's name; the weights of tiny-drawn and tiny-pi05 are drawn."""
    steps: int | None = None
    """Optimiser steps; without, as many as fit into --minutes, by the speed of the first ones."""
    minutes: float | None = None
    """With --steps: save and stop after so long, to be resumed."""
    batch_size: int = 64
    """Observations a step, over all devices."""
    flow_samples: int = 4
    """Draws of noise and flow time on each observation; they share the pass over images and text, which costs most."""
    grounding: float = 0.0
    """Weight of saying where in the images the told object is, and its place, beside the actions; for datasets of which
    columns such as `image_target` and `image_place` know it. With --flow-samples 0, of that alone."""
    accumulate: int = 1
    """Parts that a batch is taken through the model in, one after the other: less memory, and on a CPU sooner done."""
    learning_rate: float | None = None
    """At its peak; 1e-3 for drawn weights and 2.5e-5 for loaded ones unless told."""
    warmup: int = 100
    """Steps of linear rise; then a cosine."""
    final_share: float = 0.02
    """Of the peak, at the last step."""
    weight_decay: float = 1e-3
    """Decoupled, on matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.995
    """Decay of the averaged weights, which are what is saved; 0 averages nothing."""
    lora: int | None = None
    """Rank of adapters to train instead of the language model's weights."""
    lora_alpha: float | None = None
    """Scale of the adapters; the rank unless told."""
    norm_stats: Literal["auto", "dataset", "checkpoint"] = "auto"
    """Statistics: measured on the dataset, or kept from --init; auto keeps them where loaded weights have some."""
    episodes: str | None = None
    """Which, such as 0-9 (inclusive) or 0,3,5; all unless given."""
    tasks: tuple[str, ...] | None = None
    """Instructions: only episodes of these; all unless given."""
    first_steps: int = 0
    """With --first-repeats: these many frames at the start of an episode come more often. They decide what it reaches for, and
    there the instruction matters most."""
    first_repeats: int = 1
    """How many times an epoch."""
    validation: float = 0.05
    """Share of the episodes that are held out."""
    pad: Literal["mask", "repeat"] = "mask"
    """Beyond an episode's end: actions do not count, or the last one repeats, as in the reference."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Pairs of the robot's observation key (or `actions`) and the dataset's column, where the usual names do not fit."""
    robot: str | None = None
    """Whose observations these are: libero, droid or aloha; the checkpoint says so where it knows."""
    preset: str | None = None
    """Fills in what the checkpoint does not say."""
    asset_id: str | None = None
    """Name of the statistics in what is saved; with --norm-stats checkpoint, which ones are kept."""
    action_horizon: int | None = None
    """Actions in one chunk, where not the checkpoint's."""
    max_token_len: int | None = None
    """Text tokens, where not the checkpoint's."""
    delta_actions: bool | None = None
    """Whether the state is subtracted from actions; as the checkpoint or its robot's usual unless told."""
    trained_on: dict[str, str] = dataclasses.field(default_factory=dict)
    """Pairs for the record, such as `render fast`: clients compare them with where they act."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations; auto is bfloat16 on an accelerator and float32 on a CPU. Parameters are float32."""
    remat: bool | None = None
    """Compute activations again in the backward pass, to save memory; done on an accelerator unless told."""
    augment: bool = True
    """Shift images, change brightness, contrast and saturation, and add noise to the state."""
    shift: float = 0.05
    """Of images, at most, as a share of their side; 0 where the camera never moves."""
    state_noise: float = 0.03
    """Of that noise, in standard deviations of the state."""
    cache_images: bool = True
    """Keep resized images in the cache folder; without, each is decoded every time."""
    tolerance_s: float = 1e-4
    """Seconds that a video's frame may be off its row's timestamp; LeRobot's option of that name."""
    seed: int = 0
    """Of everything that is drawn."""
    save_every: int = 1000
    """Steps from checkpoint to checkpoint."""
    save_minutes: float = 15.0
    """Minutes after which one is saved anyway."""
    keep: int = 2
    """Checkpoints that stay; 0 keeps all."""
    log_every: int = 10
    """Steps from line to line of the metrics."""
    validate_every: int = 200
    """Steps from one look at the held-out episodes to the next."""
    workers: int = 2
    """Threads that make batches."""
    prefetch: int = 4
    """Batches made ahead."""
    resume: bool = False
    """Go on with the run in --output; begins where there is none."""
    log_level: LogLevel = "info"
    """How much to log, to stderr."""

    def run(self) -> None:
        """Prints the newest checkpoint."""
        try:
            from vlascope_datasets import DatasetError
            from vlascope_datasets.numbers import listed_numbers

            from vlascope_server.compile_cache import use_compilation_cache
            from vlascope_server.training import TrainingError, TrainOptions, train
        except ModuleNotFoundError as error:
            raise VlascopeError(f"train needs {error.name}: install vlascope-server[train]") from error
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del given["log_level"]
        use_compilation_cache()  # a step takes a minute to compile, and a run that is resumed would wait for it again
        try:
            given["episodes"] = None if self.episodes is None else listed_numbers(self.episodes, "--episodes")
            trained = train(TrainOptions(**given))
        except (DatasetError, TrainingError) as error:
            raise VlascopeError(str(error)) from error
        print(trained.checkpoint if trained.finished else f"{trained.checkpoint} (not finished; go on with --resume)")
