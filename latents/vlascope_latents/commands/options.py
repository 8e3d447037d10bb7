"""Options that several subcommands take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from vlascope_base.options import CommandOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions(CommandOptions):
    """What a subcommand takes that reads a store."""

    path: Annotated[Path, tyro.conf.Positional]
    """A run, or a folder of runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CampaignOptions(StoreOptions):
    """What a subcommand takes that may look at the episodes of one campaign alone."""

    campaign: str | None = None
    """Episodes of one campaign, or `none` for those that are part of no campaign; all unless given."""
