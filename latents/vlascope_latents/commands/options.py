"""Options that every subcommand has, and how counts of bytes read. Knows nothing of stores."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(kw_only=True)
class Options:
    """What every subcommand takes."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to show."""


def readable(count: float) -> str:
    """Bytes for people: 1500 is `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
