"""Options that every subcommand has. Knows nothing of stores."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(kw_only=True)
class Options:
    """What every subcommand takes."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to show."""
