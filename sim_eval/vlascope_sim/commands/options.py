"""Options that every subcommand takes. Knows nothing of any one of them."""

from __future__ import annotations

from typing import Literal

LogLevel = Literal["debug", "info", "warning", "error"]
