"""Options that several subcommands take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from vlascope_base.options import CommandOptions

from vlascope_datasets.video import TOLERANCE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedOptions(CommandOptions):
    """What every subcommand takes that looks into videos."""

    tolerance_s: float = TOLERANCE
    """Seconds that a video's frame may be off its row's timestamp; LeRobot's option of that name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyOptions(TimedOptions):
    """What a subcommand takes that makes one dataset of another."""

    source: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to; absent or empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmptyEpisodesOptions:
    """What a subcommand takes that keeps every episode, but may leave out those that hold nothing."""

    empty: Literal["keep", "drop"] = "keep"
    """What becomes of episodes without frames."""
