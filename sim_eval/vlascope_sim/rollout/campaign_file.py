"""Campaigns as YAML files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from vlascope_base import OptionError, maps
from vlascope_base.files import replace_file
from vlascope_base.options import read_fields

from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign

CAMPAIGN_FILE = "campaign.yaml"
_FIRST = ("id", "servers", "suite", "tasks", "episodes")


def write_campaign(path: Path, campaign: Campaign) -> None:
    """Writes every field, defaults too; which campaign it is stands first."""
    fields = dataclasses.asdict(campaign)
    ordered = {name: fields.pop(name) for name in _FIRST} | fields
    replace_file(path, yaml.safe_dump(_plain(ordered), sort_keys=False, allow_unicode=True))


def read_campaign(path: Path) -> Campaign:
    """Reads a campaign; fields that the file leaves out have their defaults.

    Raises:
        RolloutError: as `read_campaign_fields`; or a field is missing, or the campaign cannot run.
    """
    found = read_campaign_fields(path)
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


def read_campaign_fields(path: Path) -> dict[str, Any]:
    """The fields that a file has, of a campaign that need not be complete.

    Raises:
        RolloutError: the file is missing or no YAML, or a field is unknown or of the wrong type; the message names it.
    """
    found = read_map(path)
    printed = found.get("rollout")  # as `--print-config` prints it
    try:
        return read_fields(Campaign, printed if isinstance(printed, dict) else found)
    except OptionError as error:
        raise RolloutError(f"{path}: {error}") from error


def read_map(path: Path) -> dict[Any, Any]:
    """The map that a YAML or JSON file holds.

    Raises:
        RolloutError: the file is missing, holds something else, or a key twice.
    """
    try:
        return maps.read_map(path)
    except OptionError as error:
        raise RolloutError(f"{path}: {error}") from error


def _plain(value: object) -> object:
    """As YAML writes it."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
