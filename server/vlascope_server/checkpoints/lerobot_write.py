"""Writes what LeRobot wants beside the parameters: `config.json`, and the processors with their statistics.

Fields and steps are those of LeRobot's policies `pi0` and `pi05` from its release 0.4 on. Fields that only training or a later
release has are left out, since an older release refuses a field that it does not know, and a newer one has a default.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from vlascope_base.files import replace_json

from vlascope_server.checkpoints.config_file import ACTION, FILE, IMAGES, STATE, Features
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.lerobot_processors import (
    AFTER,
    BEFORE,
    NORMALISER,
    STATE_TEXT,
    TOKENIZER,
    UNNORMALISER,
    Mode,
)
from vlascope_server.checkpoints.record import Record
from vlascope_server.model import Pi0Config
from vlascope_server.model.config import gemma_2b, gemma_300m
from vlascope_server.robots import ROBOTS, Normalisation
from vlascope_server.robots.arithmetic import LEROBOT_MARGIN, OPENPI_MARGIN, needs_quantiles
from vlascope_server.robots.norm_stats import NormStats

_TOKENIZER = "google/paligemma-3b-pt-224"
_NARROW = 1e-3
"""Of a deviation or a range, in the data's units. openpi's margin of 1e-6, which LeRobot does not add on the way back, is more
than a thousandth of a narrower one."""

_log = logging.getLogger(__name__)


def lerobot_record(
    name: object,
    config: Pi0Config,
    record: Record,
    norm_stats: Mapping[str, NormStats] | None,
    *,
    was_lerobot: bool = False,
) -> Record:
    """The record of a checkpoint that LeRobot can be given, with what is only implied spelled out.

    Args:
        name: of the checkpoint, for messages.
        config: its architecture; a horizon or token length of 0 is not known.
        record: what is known of it.
        norm_stats: of `state` and `actions`; None where it has none.
        was_lerobot: it was LeRobot's checkpoint already, so that its prompts may have more numbers than its state.

    Raises:
        CheckpointError: LeRobot's port of the model does not do what this policy was trained with, or nobody says.
    """
    missing = [field for field in ("action_horizon", "max_token_len") if not getattr(config, field)]
    if missing:
        raise CheckpointError(
            f"{name}: {' and '.join(missing)}: not known, and LeRobot's {FILE} has to say it",
            f"give {' and '.join(f'<{field}>' for field in missing)}",
        )
    robot = ROBOTS.get(record.robot or "")
    delta = record.delta_actions
    if delta is None and robot:
        delta = robot.conventions(pi05=config.pi05).delta_actions
    if delta is None:
        raise CheckpointError(
            f"{name}: does not say whether its actions are relative to the state, which LeRobot's are not",
            "give <delta_actions>, False where they are not",
        )
    if delta:
        raise CheckpointError(
            f"{name}: delta_actions: its actions are relative to the state, and LeRobot's port takes them as they are"
        )
    if config.pi05 and record.state_in_prompt is False:
        raise CheckpointError(
            f"{name}: state_in_prompt: its prompts are without the state, and LeRobot's pi05 always writes it in"
        )
    if norm_stats is not None and (absent := {"state", "actions"} - norm_stats.keys()):
        raise CheckpointError(
            f"{name}: norm_stats: no statistics of {' and '.join(sorted(absent))}; LeRobot has to have both"
        )
    prompt_state_dim = record.prompt_state_dim
    if config.pi05 and norm_stats is not None and not was_lerobot:
        prompt_state_dim = prompt_state_dim or (robot.spec.state_dim if robot else norm_stats["state"].width)
    usual = "quantile" if config.pi05 else "zscore"
    return dataclasses.replace(
        record,
        asset_id=None,
        normalisation=record.normalisation or usual,
        delta_actions=False,
        state_in_prompt=True if config.pi05 else None,
        prompt_state_dim=prompt_state_dim,
    )


def write_lerobot(
    folder: Path,
    config: Pi0Config,
    record: Record,
    norm_stats: Mapping[str, NormStats] | None,
    *,
    dtype: str,
    features: Features | None = None,
    own_tokenizer: bool = False,
) -> None:
    """Writes the files into a folder that holds the parameters.

    Args:
        folder: that exists.
        config: the architecture.
        record: as `lerobot_record` gives it.
        norm_stats: of `state` and `actions`; None writes processors without statistics, as a base policy has them. Those that
            are padded to the model's width are cut to the robot's, where the record says whose they are.
        dtype: `float32` or `bfloat16`, which LeRobot computes in.
        features: LeRobot's own names of the cameras; the model's image slots where there are none.
        own_tokenizer: the checkpoint does not read with PaliGemma's.
    """
    stats = _cut(norm_stats, record.robot)
    cameras = features.cameras if features else {slot: f"{IMAGES}{slot}" for slot in config.cameras}
    size = config.vision.image_size
    widths = {key: stats[key].width if stats else config.action_dim for key in ("state", "actions")}
    inputs = {name: {"type": "VISUAL", "shape": [3, size, size]} for name in cameras.values()}
    inputs[STATE] = {"type": "STATE", "shape": [widths["state"]]}
    outputs = {ACTION: {"type": "ACTION", "shape": [widths["actions"]]}}
    kind = record.normalisation or "zscore"
    mode: Mode = "QUANTILES" if needs_quantiles(kind) else "MEAN_STD"
    modes = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    replace_json(folder / FILE, _configuration(config, inputs, outputs, modes, dtype))
    margin = LEROBOT_MARGIN if kind.startswith("lerobot") else OPENPI_MARGIN
    tensors = _tensors(stats)

    def normaliser(name: str, step: str, index: int, which: Mapping[str, object]) -> dict[str, object]:
        entry: dict[str, object] = {
            "registry_name": step,
            "config": {"eps": margin, "features": dict(which), "norm_map": modes},
        }
        if tensors:
            file = f"{name.removesuffix('.json')}_step_{index}_{step}.safetensors"
            save_file(tensors, folder / file)
            entry["state_file"] = file
        return entry

    steps = [_step("rename_observations_processor", rename_map={}), _step("to_batch_processor")]
    tokenizer = _step(
        TOKENIZER,
        max_length=config.max_token_len,
        task_key="task",
        padding_side="right",
        padding="max_length",
        truncation=True,
        tokenizer_name="tokenizer.model" if own_tokenizer else _TOKENIZER,
    )
    device = _step("device_processor", device="cpu", float_dtype=None)
    if config.pi05:  # the state is normalised before it is written into the prompt
        steps += [normaliser(BEFORE, NORMALISER, 2, inputs | outputs), _step(STATE_TEXT), tokenizer, device]
    else:
        steps += [
            _step("pi0_new_line_processor"),
            tokenizer,
            device,
            normaliser(BEFORE, NORMALISER, 5, inputs | outputs),
        ]
    replace_json(folder / BEFORE, {"name": BEFORE.removesuffix(".json"), "steps": steps})
    steps = [normaliser(AFTER, UNNORMALISER, 0, outputs), device]
    replace_json(folder / AFTER, {"name": AFTER.removesuffix(".json"), "steps": steps})
    _warn(folder.name.rsplit(".", 2)[0], config, kind, stats, own_tokenizer=own_tokenizer)


def _configuration(
    config: Pi0Config, inputs: Mapping[str, object], outputs: Mapping[str, object], modes: Mapping[str, str], dtype: str
) -> dict[str, object]:
    return {
        "type": "pi05" if config.pi05 else "pi0",
        "n_obs_steps": 1,
        "input_features": dict(inputs),
        "output_features": dict(outputs),
        "device": "cpu",
        "push_to_hub": False,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": dtype,
        "chunk_size": config.action_horizon,
        "n_action_steps": config.action_horizon,
        "max_state_dim": config.action_dim,
        "max_action_dim": config.action_dim,
        "num_inference_steps": 10,
        "min_period": 4e-3,
        "max_period": 4.0,
        "image_resolution": [config.vision.image_size] * 2,
        "empty_cameras": 0,
        "normalization_mapping": dict(modes),
        "tokenizer_max_length": config.max_token_len,
    }


def _step(name: str, **options: object) -> dict[str, object]:
    return {"registry_name": name, "config": options}


def _cut(norm_stats: Mapping[str, NormStats] | None, robot: str | None) -> dict[str, NormStats] | None:
    if norm_stats is None:
        return None
    spec = ROBOTS[robot].spec if robot in ROBOTS else None
    widths = {"state": spec.state_dim, "actions": spec.action_dim} if spec else {}
    return {key: entry.cut(widths.get(key, entry.width)) for key, entry in norm_stats.items()}


def _tensors(stats: Mapping[str, NormStats] | None) -> dict[str, np.ndarray]:
    """float64, though LeRobot's own are float32, which it makes of them: so they come back exactly."""
    names = {"state": STATE, "actions": ACTION}
    return {
        f"{names[key]}.{statistic}": np.ascontiguousarray(value)
        for key, entry in (stats or {}).items()
        for statistic in ("mean", "std", "q01", "q99")
        if (value := getattr(entry, statistic)) is not None
    }


def _warn(
    name: str, config: Pi0Config, kind: Normalisation, stats: Mapping[str, NormStats] | None, *, own_tokenizer: bool
) -> None:
    if (config.vlm, config.action) != (gemma_2b(), gemma_300m()):
        _log.warning(
            "%s: LeRobot builds the published sizes only, gemma_2b and gemma_300m: this one it will not load", name
        )
    if own_tokenizer:
        _log.warning("%s: reads with a tokenizer of its own, and LeRobot's only with PaliGemma's", name)
    if stats is None:
        _log.warning("%s: has no statistics: LeRobot will hand states and actions through as they are", name)
    for key, entry in (stats or {}).items():
        wide = (
            entry.q99 - entry.q01
            if needs_quantiles(kind) and entry.q01 is not None and entry.q99 is not None
            else entry.std
        )
        narrow = np.flatnonzero((wide > 0) & (wide < _NARROW))
        if len(narrow) and not kind.startswith("lerobot"):
            _log.warning(
                "%s: %s: dimensions %s hardly ever move, and LeRobot scales them otherwise, by more than a thousandth",
                name, key, ", ".join(map(str, narrow)),
            )  # fmt: skip
