"""Puts together what a run trains and what it trains on: a checkpoint, a robot, a dataset.

A run that goes on takes all that it can from its own last checkpoint, and nothing from where it began.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from vlascope_base.cache import IMAGES, cache_folder
from vlascope_datasets import LeRobotDataset
from vlascope_datasets.info import COLLECTIONS

from vlascope_server.checkpoints import Checkpoint, Record, load_checkpoint
from vlascope_server.model import Lora, Pi0Config, init_params, lora_frozen, parameter_shapes
from vlascope_server.policies.pi0.assembly import find_cameras, find_dtype, find_robot
from vlascope_server.robots import NormStats, RobotIO
from vlascope_server.robots.images import places_with_pad
from vlascope_server.training.columns import Columns, find_columns
from vlascope_server.training.data import prepare_data
from vlascope_server.training.frames import Frames, choose_episodes, read_frames
from vlascope_server.training.grounding import seen
from vlascope_server.training.image_cache import ImageCache
from vlascope_server.training.loader import Batches
from vlascope_server.training.objective import blind_to
from vlascope_server.training.options import TrainingError, TrainOptions


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a run works with.

    Attributes:
        config: the architecture, its dtype that of the activations.
        trimmed: as batches come, with no more room for text than the longest instruction takes.
        params: all parameters, float32: drawn, loaded, or the averages of the checkpoint that the run goes on from.
        trained: names of those that are trained.
        carrying: action dimensions that move in the dataset.
        norm_stats, asset_id, record, tokenizer: what goes into every checkpoint.
        training, validation: batches; no validation where no episode is held out.
        images: of both.
        episodes, held_out: their numbers.
        drawn: the weights were drawn, not loaded.
    """

    config: Pi0Config
    trimmed: Pi0Config
    params: dict[str, jax.Array]
    trained: frozenset[str]
    carrying: Bool[np.ndarray, " a"]
    norm_stats: dict[str, NormStats]
    asset_id: str
    record: Record
    tokenizer: Path | None
    training: Batches
    validation: Batches | None
    images: ImageCache
    episodes: list[int]
    held_out: list[int]
    drawn: bool

    def facts(self) -> dict[str, Any]:
        """For `train.json`."""
        size = {name: int(array.size) for name, array in self.params.items()}
        return {
            "parameters": sum(size.values()),
            "trained_parameters": sum(count for name, count in size.items() if name in self.trained),
            "action_dimensions": np.flatnonzero(self.carrying).tolist(),
            "frames": len(self.training.rows),
            "episodes": self.episodes,
            "held_out_episodes": self.held_out,
            "architecture": dataclasses.asdict(self.config),
            "record": dataclasses.asdict(self.record),
        }


def prepare(options: TrainOptions, resumed: Path | None) -> Prepared:
    """Loads weights and the dataset's numbers; decodes no image but, with grounding, one of each camera.

    Args:
        options: of the run.
        resumed: the run's own checkpoint to go on from; None begins.

    Raises:
        TrainingError: dataset, robot, checkpoint and options do not fit each other; names what does not.
        CheckpointError: the checkpoint cannot be loaded.
        DatasetError: the dataset cannot be read.
    """
    dataset = LeRobotDataset.open(options.dataset, tolerance_s=options.tolerance_s)
    checkpoint = load_checkpoint(resumed, dtype="float32") if resumed else _load(options)
    drawn = checkpoint.kind == "seeded" or checkpoint.drawn is not None
    robot = find_robot(options.init, checkpoint, options.robot)
    columns = find_columns(dataset.info, str(dataset.root), robot.spec, options.columns)
    if options.grounding and not columns.targets:
        raise TrainingError(
            f"grounding: {dataset.root} does not say where in {' and '.join(columns.cameras.values())} the told object is:"
            f" no column {' or '.join(f'{column}_target' for column in columns.cameras.values())} of two numbers;"
            " vlascope-sim demonstrate writes them"
        )
    episodes, held_out = choose_episodes(dataset, options)
    parts = [read_frames(dataset, robot, columns, part) for part in (episodes, held_out) if part]
    config, params = _architecture(options, checkpoint, robot)
    if options.grounding:
        parts = [_targets_as_resized(part, dataset, columns, config.vision.image_size) for part in parts]
    images = ImageCache(
        dataset, columns.cameras, config.vision.image_size, cache_folder() / IMAGES if options.cache_images else None
    )
    # the statistics of a run stay what they were
    data = prepare_data(options.init, checkpoint, config, robot, parts, images, options, keep_stats=resumed is not None)
    if drawn:
        params = blind_to(params, data.carrying)
    training, *rest = data.parts
    record = dataclasses.replace(
        checkpoint.record,
        robot=robot.spec.name,
        normalisation=data.conventions.normalisation,
        delta_actions=data.conventions.delta_actions,
        state_in_prompt=data.state_in_prompt if config.pi05 else None,
        norm_stats_count=data.norm_stats_count,
        trained_on=checkpoint.record.trained_on if resumed else _trained_on(dataset, options, checkpoint.record),
    )
    return Prepared(
        config=config,
        trimmed=data.trimmed,
        params=params,
        trained=frozenset(name for name in params if options.lora is None or not lora_frozen(name)),
        carrying=data.carrying,
        norm_stats=data.norm_stats,
        asset_id=options.asset_id or checkpoint.asset_id or robot.spec.name,
        record=record,
        tokenizer=checkpoint.tokenizer,
        training=training,
        validation=next((part for part in rest if len(part.rows)), None),
        images=images,
        episodes=episodes,
        held_out=held_out,
        drawn=drawn,
    )


def _targets_as_resized(frames: Frames, dataset: LeRobotDataset, columns: Columns, size: int) -> Frames:
    """Places are shares of what a camera saw; the model sees it between black bars, where it was not square."""
    targets = {}
    for (question, slot), places in frames.targets.items():
        first = int(frames.episode[0]), int(frames.frame[0])
        height, width = dataset.image(*first, columns.cameras[slot]).shape[:2]
        there = np.asarray(seen(jnp.asarray(places)))[:, None]
        targets[question, slot] = np.where(there, places_with_pad(places, height, width, size), -1.0).astype(np.float32)
    return dataclasses.replace(frames, targets=targets)


def _load(options: TrainOptions) -> Checkpoint:
    # else the asset id is a new name, and none of the checkpoint's
    said = options if options.norm_stats == "checkpoint" else dataclasses.replace(options, asset_id=None)
    return load_checkpoint(options.init, said, dtype="float32", to_train=True)


def _architecture(
    options: TrainOptions, checkpoint: Checkpoint, robot: RobotIO
) -> tuple[Pi0Config, dict[str, jax.Array]]:
    """The configuration with the robot's cameras, adapters and the activations' dtype, and its parameters."""
    cameras = find_cameras(options.init, checkpoint, robot)
    config = dataclasses.replace(checkpoint.config, cameras=cameras, dtype=find_dtype(options.dtype))
    params = dict(checkpoint.params)
    if checkpoint.kind == "seeded":
        params = init_params(config, options.seed)
    if options.lora is None:
        return config, params
    found = config.vlm.attn_lora
    if found is not None:  # they are trained on as they are
        for option, has, asked in (("lora", found.rank, options.lora), ("lora_alpha", found.alpha, options.lora_alpha)):
            if asked not in (None, has):
                raise TrainingError(f"{option}: the adapters of {options.init} have {has:g}, not {asked:g}; give that")
        return config, params
    lora = Lora(options.lora, float(options.lora if options.lora_alpha is None else options.lora_alpha))
    vlm, action = (dataclasses.replace(g, attn_lora=lora, ffn_lora=lora) for g in (config.vlm, config.action))
    config = dataclasses.replace(config, vlm=vlm, action=action)
    # their second factors are zero: at first the policy is what it was
    return config, params | init_params(config, options.seed, names=parameter_shapes(config).keys() - params.keys())


def _trained_on(dataset: LeRobotDataset, options: TrainOptions, begun_with: Record) -> dict[str, str]:
    """The dataset's name, how its images were drawn where dataset or first weights say so, and what the user says."""
    found = {**(begun_with.trained_on or {}), "dataset": dataset.root.resolve().name}
    path = dataset.root / COLLECTIONS
    if path.is_file():
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for name, values in (
                ("render", {row["options"]["render"] for row in rows}),
                ("assets", {row["assets"]["kind"] for row in rows}),
            ):
                found[name] = "+".join(sorted(values))
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f"{path}: expected one collection a line; repair the file, or move it away") from None
    return {**found, **options.trained_on}
