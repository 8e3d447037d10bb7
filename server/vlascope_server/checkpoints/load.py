"""Loads a policy from a checkpoint: parameters on the device, architecture, statistics.

Parameters are read one after the other, the largest first, cast while they are read, and handed to the device before
the next is read. Host memory therefore peaks while the largest is read (see `benchmarks/restore_memory.py`).
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from vlascope_base.text import readable_bytes

from vlascope_server.checkpoints.config_file import FILE as CONFIG_FILE
from vlascope_server.checkpoints.drawn import drawn_seed
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.files import CheckpointFiles, Kind
from vlascope_server.checkpoints.record import FILE, Record, asked_for, record_of
from vlascope_server.checkpoints.source import Source, check_asked, open_source
from vlascope_server.checkpoints.weights import DTYPES, Weights, count_not_finite, largest_first, nbytes
from vlascope_server.model import Pi0Config, init_params
from vlascope_server.options import CheckpointOptions
from vlascope_server.presets import PRESETS, SEEDED
from vlascope_server.presets.tiny import TOKENIZER_PATH, unit_norm_stats
from vlascope_server.robots.libero import Libero
from vlascope_server.robots.norm_stats import NormStats

_log = logging.getLogger(__name__)

_NO_OPTIONS = CheckpointOptions()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A policy ready to run.

    Attributes:
        params: flat name -> array on JAX's default device.
        config: the architecture; its dtype is the parameters'.
        norm_stats: quantity (`state`, `actions`) -> statistics; None where the checkpoint has none, or those of several
            robots and nobody said which.
        asset_id: which statistics these are.
        asset_ids: of all statistics that the checkpoint has.
        record: everything else that is known: robot, normalisation, training step.
        path: the folder on this machine; None for a policy that is drawn whole.
        kind: the format it was read from, or `seeded`.
        tokenizer: the SentencePiece model that belongs to it; None for PaliGemma's.
        drawn: what the weights are where they were drawn anew for another checkpoint, such as `drawn:3 like tiny`.
    """

    params: dict[str, jax.Array]
    config: Pi0Config
    norm_stats: dict[str, NormStats] | None
    asset_id: str | None
    asset_ids: tuple[str, ...]
    record: Record
    path: Path | None
    kind: Kind | Literal["seeded"]
    tokenizer: Path | None
    drawn: str | None = None


def load_checkpoint(
    location: str | Path,
    options: CheckpointOptions = _NO_OPTIONS,
    *,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    cameras: tuple[str, ...] | None = None,
    robot: str | None = None,
    lora_alpha: float | None = None,
    to_train: bool = False,
    weights: bool = True,
) -> Checkpoint:
    """Loads a checkpoint of any format from a local or a remote place.

    Weights that are NaN or infinite are logged as a warning and loaded.

    Args:
        location: a step folder, its `params/`, a safetensors file or the index of several, a URL of one of these, or a preset's
            name; `tiny-drawn` and `tiny-pi05` are LIBERO policies whose weights are drawn from a seed. `drawn:SEED` draws the
            weights of the checkpoint that the options name as `like` anew.
        options: what a person says of the checkpoint. Its preset fills in what nobody else says; the others overrule
            `vlascope.json` and the preset, and may only repeat what `config.json` says.
        dtype: of parameters and activations; bfloat16 is how the reference serves.
        cameras: image slots that the robot fills; all three where nobody says. This and the next two overrule like the options.
        robot: whose observations and actions these are.
        lora_alpha: of every adapter; the adapter's rank where nobody says.
        to_train: horizon and token length are those of a policy that is to be trained, whatever `config.json` says.
        weights: read them; without, `params` is empty, and all else is as it would be.

    Raises:
        CheckpointError: one line that names the path, what was expected, what was found and what to do.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    asked = Record(cameras=cameras, robot=robot, lora_alpha=lora_alpha).over(asked_for(options))
    if str(location) in SEEDED and not Path(location).exists():
        drawn_seed(str(location), options.like)
        return _draw(str(location), dtype, options.preset, asked, weights)
    source = open_source(location, options.preset, options.like)
    source = source.asked(asked, may_differ=to_train)
    check_lengths(source)
    config = source.config(dtype)
    norm_stats, asset_id = load_statistics(source, config.action_dim)
    files, params = source.files, {}
    if weights:
        _log.info("%s: %s as %s", source.origin, readable_bytes(nbytes(source.weights, dtype)), dtype)
        params = _params(source.weights, files, dtype)
    return Checkpoint(
        params, config, norm_stats, asset_id, source.asset_ids, source.record, files.root,
        source.kind, files.tokenizer, source.drawn,
    )  # fmt: skip


def _draw(
    name: str, dtype: Literal["float32", "bfloat16"], preset: str | None, asked: Record, weights: bool
) -> Checkpoint:
    """A seeded policy; only the shapes of what it sees and does may be asked for otherwise."""
    free = {field: getattr(asked, field) for field in ("action_horizon", "max_token_len", "cameras")}
    fixed = dataclasses.replace(asked, action_horizon=None, max_token_len=None, cameras=None)
    if preset or fixed != Record():
        raise CheckpointError(
            f"{name}: is whole by itself; expected none of preset, robot, asset id and LoRA alpha", "leave them away"
        )
    check_asked(asked)
    chosen = {field: value for field, value in free.items() if value is not None}
    config = dataclasses.replace(SEEDED[name], dtype=dtype, **chosen)
    robot = Libero()
    record = Record(
        robot=robot.spec.name,
        normalisation=robot.conventions(pi05=config.pi05).normalisation,
        state_in_prompt=True if config.pi05 else None,
    )
    stats = unit_norm_stats(robot.spec.state_dim, robot.spec.action_dim)
    params = init_params(config, dtype=dtype) if weights else {}
    name = robot.spec.name
    return Checkpoint(
        params, config, stats, name, (name,), record_of(config).over(record), None, "seeded", TOKENIZER_PATH
    )


def load_statistics(source: Source, action_dim: int) -> tuple[dict[str, NormStats] | None, str | None]:
    """The statistics of a checkpoint, and their asset id; (None, None) where there are none, or several and no choice.

    Raises:
        CheckpointError: those asked for are missing or unreadable, or wider than the model's `action_dim`.
    """
    asset_id = source.chosen_asset_id()
    if asset_id is None:
        if source.asset_ids:
            _log.info("%s: no statistics chosen; asset ids: %s", source.files.root, ", ".join(source.asset_ids))
        return None, None
    stats = source.norm_stats(asset_id)
    for quantity, entry in stats.items():
        if entry.width > action_dim:
            where = source.files.assets.get(asset_id, source.files.root)
            raise CheckpointError(
                f"{where}: {quantity}: expected at most {action_dim} numbers, the model's width; found"
                f" {entry.width}: these are the statistics of another model"
            )
    return stats, asset_id


def _params(weights: Weights, files: CheckpointFiles, dtype: str) -> dict[str, jax.Array]:
    params = {}
    for name in largest_first(weights):
        array = weights.read(name, dtype)
        warn_not_finite(files, name, array)
        # wait, so that on an accelerator the host's copy is gone before the next parameter is read
        params[name] = jax.block_until_ready(jax.device_put(array))
    return dict(sorted(params.items()))


def warn_not_finite(files: CheckpointFiles, name: str, array: np.ndarray) -> None:
    """Logs a warning where an array holds a value that is NaN or infinite."""
    if bad := count_not_finite(array):
        _log.warning(
            "%s: parameter %s: %d of %d values are NaN or infinite; actions will be too: use an earlier step",
            files.weights, name, bad, array.size,
        )  # fmt: skip


def check_lengths(source: Source) -> None:
    """Neither horizon nor token length can be guessed: a wrong one runs, and gives wrong actions.

    Raises:
        CheckpointError: nobody says one of them.
    """
    missing = [field for field in ("action_horizon", "max_token_len") if getattr(source.record, field) is None]
    if missing:
        raise CheckpointError(
            f"{source.files.root}: {' and '.join(missing)}: neither {FILE} nor {CONFIG_FILE} says, and the parameters do not"
            " tell",
            f"give {' and '.join(f'<{field}>' for field in missing)}, or <preset>, one of {', '.join(PRESETS)}",
        )
