"""Campaigns as YAML. Knows nothing of what the fields mean."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.errors import RolloutError


def write_campaign(path: Path, campaign: Campaign) -> None:
    """Writes every field, defaults too."""
    path.write_text(yaml.safe_dump(_plain(dataclasses.asdict(campaign)), sort_keys=False, allow_unicode=True))


def read_campaign(path: Path) -> Campaign:
    """Reads a campaign; fields that the file leaves out have their defaults.

    Raises:
        RolloutError: as `read_fields`; or a field is missing, or the campaign cannot run.
    """
    found = read_fields(path)
    for field in dataclasses.fields(Campaign):
        if field.name not in found and field.default is field.default_factory is dataclasses.MISSING:
            old = (
                f": it is of an older vlascope; `--campaign {path}` begins a new one with its options"
                if field.name == "id"
                else ""
            )
            raise RolloutError(f"{path}: field {field.name} is missing{old}")
    try:
        return Campaign(**found)
    except ValueError as error:
        raise RolloutError(f"{path}: {error}") from error


def read_fields(path: Path) -> dict[str, Any]:
    """The fields that a file has, of a campaign that need not be complete.

    Raises:
        RolloutError: the file is missing or no YAML, or a field is unknown or of the wrong type; the message names it.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RolloutError(f"{path}: expected a campaign in YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise RolloutError(f"{path}: expected a map of a campaign's fields, found {type(found).__name__}")
    kinds = typing.get_type_hints(Campaign)
    for name in found:
        if name not in kinds:
            raise RolloutError(f"{path}: field {name!r} is none of a campaign's: {', '.join(kinds)}")
    try:
        return {name: _typed(name, value, kinds[name]) for name, value in found.items()}
    except RolloutError as error:
        raise RolloutError(f"{path}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value, lists as tuples and whole numbers as floats where those belong."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _typed(name, value, args[0])
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(f"{name}[{k}]", entry, args[0]) for k, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {_typed(name, k, args[0]): _typed(f"{name}.{k}", entry, args[1]) for k, entry in value.items()}
    if origin is typing.Literal and value in args:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    allowed = ", ".join(map(str, args)) if origin is typing.Literal else getattr(kind, "__name__", str(kind))
    raise RolloutError(f"{name}: expected {allowed}, found {value!r}")
