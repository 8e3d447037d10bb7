"""Where everything is kept that can be made or fetched again: downloads, compiled programs, images, stand-ins, imports."""

from __future__ import annotations

import os
from pathlib import Path

PROGRAMS, IMAGES, ASSETS, IMPORTS = "xla", "training", "assets", "imports"
"""Folders in it: compiled programs, images as models take them, stand-ins for LIBERO's assets, runs that were imported from
pickles. Others hold downloads."""

TOKENIZER = "paligemma_tokenizer.model"
"""The file in it that holds the published tokenizer."""


def cache_folder() -> Path:
    """`$VLASCOPE_CACHE`, or `vlascope` in `$XDG_CACHE_HOME`, or in `~/.cache`; it need not exist.

    As the XDG base directory specification asks, an `$XDG_CACHE_HOME` that is no absolute path is ignored.
    """
    if own := os.environ.get("VLASCOPE_CACHE"):
        return Path(own)
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (home if home.is_absolute() else Path.home() / ".cache") / "vlascope"
