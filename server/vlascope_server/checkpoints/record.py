"""`vlascope.json`, beside the parameters: what their shapes cannot tell; and what else lies there."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlascope_base.files import replace_json

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.json_file import JsonError, is_finite, read_json, shown
from vlascope_server.model import Pi0Config
from vlascope_server.options import CheckpointOptions
from vlascope_server.robots.contract import Normalisation
from vlascope_server.robots.norm_stats import NormStats

FILE = "vlascope.json"
SCHEMA = 1
_MAY_BE_ZERO = ("step", "norm_stats_count")


@dataclasses.dataclass(frozen=True)
class Record:
    """Facts about a checkpoint that its parameters do not carry; None where nobody has said.

    Attributes:
        action_horizon: actions in one chunk.
        max_token_len: text tokens, padding included.
        cameras: image slots that the robot fills, in the model's order.
        image_size: pixels; the parameters tell it too, so that a wrong file shows.
        robot: whose observations and actions these are.
        normalisation: of state and actions.
        state_in_prompt: pi0.5 with the state as text in the prompt (the usual form), or without any.
        prompt_state_dim: numbers of the state in that text, zeros behind the robot's own; the robot's own where nobody says.
        delta_actions: joint actions are relative to the state at the chunk's start.
        asset_id: which of the folders below `assets/` holds the statistics.
        norm_stats_count: state vectors behind the statistics.
        lora_alpha: of every adapter.
        vision_heads: attention heads of the image encoder, which the torch format hides.
        kv_heads: of the experts, likewise.
        step: training step.
        trained_on: what its data was made with, such as `render` and `assets`, in words that a client can compare.
    """

    action_horizon: int | None = None
    max_token_len: int | None = None
    cameras: tuple[str, ...] | None = None
    image_size: int | None = None
    robot: str | None = None
    normalisation: Normalisation | None = None
    state_in_prompt: bool | None = None
    prompt_state_dim: int | None = None
    delta_actions: bool | None = None
    asset_id: str | None = None
    norm_stats_count: int | None = None
    lora_alpha: float | None = None
    vision_heads: int | None = None
    kv_heads: int | None = None
    step: int | None = None
    trained_on: dict[str, str] | None = None

    def over(self, other: Record) -> Record:
        """A record that says what this one does, and where it is silent what `other` says."""
        mine = {field: value for field, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(other, **mine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sidecars:
    """What lies beside a checkpoint's parameters.

    Attributes:
        norm_stats: quantity (`state`, `actions`) -> statistics; None where there are none.
        asset_id: the folder below `assets/` that they go to; given where there are statistics, and only there.
        record: what else is known.
        tokenizer: a SentencePiece model; None for a policy that reads with PaliGemma's.
    """

    norm_stats: Mapping[str, NormStats] | None = None
    asset_id: str | None = None
    record: Record = Record()
    tokenizer: Path | None = None

    def __post_init__(self):
        """Raises `CheckpointError` where there are statistics and no asset id, or the other way round."""
        if (self.norm_stats is None) != (self.asset_id is None):
            raise CheckpointError("norm_stats and asset_id: expected both or neither")


def asked_for(options: CheckpointOptions) -> Record:
    """What a person's options say of a checkpoint."""
    return Record(options.action_horizon, options.max_token_len, asset_id=options.asset_id)


def record_of(config: Pi0Config) -> Record:
    """What a configuration says beyond its parameters' shapes."""
    adapters = (config.vlm.attn_lora, config.vlm.ffn_lora, config.action.attn_lora, config.action.ffn_lora)
    alphas = {lora.alpha for lora in adapters if lora}
    usual = all(lora.alpha == lora.rank for lora in adapters if lora)
    if len(alphas) > 1 and not usual:
        raise CheckpointError(f"LoRA alpha: expected one for all adapters, or each its rank; found {sorted(alphas)}")
    return Record(
        action_horizon=config.action_horizon,
        max_token_len=config.max_token_len,
        cameras=config.cameras,
        image_size=config.vision.image_size,
        lora_alpha=None if usual else alphas.pop(),
        vision_heads=config.vision.num_heads,
        kv_heads=config.vlm.num_kv_heads,
    )


def read_record(folder: Path) -> Record:
    """The record in `folder`; an empty one where there is none.

    Raises:
        CheckpointError: the file is no record, of a newer schema, or holds a value of the wrong type.
    """
    path = folder / FILE
    try:
        content = dict(read_json(path).items())
    except FileNotFoundError:
        return Record()
    except JsonError as error:
        raise CheckpointError(f"{error}; repair or remove the file") from None
    if type(schema := content.pop("schema", None)) is not int or schema != SCHEMA:
        raise CheckpointError(
            f"{path}: expected a map with 'schema': {SCHEMA}, found {shown(schema)}; update vlascope, or remove the file"
        )
    hints = typing.get_type_hints(Record)
    for field, value in content.items():
        if field not in hints:
            raise CheckpointError(f"{path}: {field}: unknown; the fields are {list(hints)}")
        if field == "cameras" and isinstance(value, list):
            content[field] = value = tuple(value)
        if not _fits(value, hints[field]):
            raise CheckpointError(f"{path}: {field}: expected {_spell(hints[field])}, found {shown(value)}")
        if isinstance(value, int | float) and field not in _MAY_BE_ZERO and not (isinstance(value, bool) or value > 0):
            raise CheckpointError(f"{path}: {field}: expected more than 0, found {value}")
    return Record(**content)


def write_record(folder: Path, record: Record) -> None:
    """Writes the record into `folder`, which must exist."""
    content = {"schema": SCHEMA, **dataclasses.asdict(record)}
    replace_json(folder / FILE, content)


def _fits(value: object, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if hint is float:
        return is_finite(value)
    if hint is int:
        return type(value) is int and 0 <= value < 2**31
    return isinstance(value, hint)


def _spell(hint: object) -> str:
    return str(getattr(hint, "__name__", hint) if isinstance(hint, type) else hint).replace("typing.", "")
