"""Options that every subcommand has. Knows nothing of datasets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal


@dataclasses.dataclass(kw_only=True)
class Options:
    """What every subcommand takes."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to show."""


@dataclasses.dataclass(kw_only=True)
class TimedOptions(Options):
    """What every subcommand takes that looks into videos."""

    tolerance_s: float = 1e-4
    """Seconds that a video's frame may be off its row's timestamp; LeRobot's option of that name."""


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, and the function that moves it on by one."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda: bar.advance(task)
