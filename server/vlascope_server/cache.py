"""Where downloads and compiled programs are kept. Knows nothing of what they are."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$VLASCOPE_CACHE`, or `~/.cache/vlascope`; need not exist."""
    return Path(os.environ.get("VLASCOPE_CACHE") or Path.home() / ".cache" / "vlascope")


def use_compilation_cache() -> None:
    """What one process has compiled, no later one compiles again; a folder that JAX was told of already stays."""
    import jax

    if jax.config.values.get("jax_compilation_cache_dir") is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
