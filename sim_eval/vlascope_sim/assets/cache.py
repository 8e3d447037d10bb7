"""Where generated and downloaded files are kept. Knows nothing of what they are."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$VLASCOPE_CACHE`, or `vlascope` in `$XDG_CACHE_HOME` or `~/.cache`; need not exist."""
    own = os.environ.get("VLASCOPE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlascope"
