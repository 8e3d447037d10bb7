"""Where downloads are kept. Knows nothing of what they are."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$VLASCOPE_CACHE`, or `~/.cache/vlascope`; need not exist."""
    return Path(os.environ.get("VLASCOPE_CACHE") or Path.home() / ".cache" / "vlascope")
