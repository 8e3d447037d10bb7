"""Compiled programs that outlive their process: where they are kept, and how much of a disk they may take."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from vlascope_base.cache import cache_folder

PROGRAM_BYTES = 4 * 10**9
"""Compiled programs that are kept on disk; those that were used longest ago make room."""

FREE_BYTES = 10**9
"""No program is kept while its disk has less free."""

_WORTH_KEEPING, _NEVER = 1.0, 1e9
"""JAX keeps the programs that took it longer to compile: its own default in seconds, and what no program takes."""


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that no later process compiles them again.

    A folder or a bound that JAX was told of already stays.
    """
    import jax

    if jax.config.values.get("jax_compilation_cache_dir") is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    if jax.config.values.get("jax_compilation_cache_max_size") == -1:
        jax.config.update("jax_compilation_cache_max_size", PROGRAM_BYTES)
    _date_programs(Path(jax.config.values["jax_compilation_cache_dir"]))
    heed_free_space()


def heed_free_space() -> None:
    """Call this before compiling: programs are still read from a disk that is nearly full, and none is written to it."""
    import jax

    folder = jax.config.values.get("jax_compilation_cache_dir")
    if folder is None:
        return
    name = "jax_persistent_cache_min_compile_time_secs"
    if _free(Path(folder)) < FREE_BYTES:
        jax.config.update(name, _NEVER)
    elif jax.config.values[name] == _NEVER:
        jax.config.update(name, _WORTH_KEEPING)


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _date_programs(folder: Path) -> None:
    """Gives a date to each program that has none, from before there was a bound or from a process that was killed.

    JAX keeps the date of last use in a file of its own, and keeps no further program where one is missing.
    """
    try:
        for program in folder.glob("*-cache"):
            date = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not date.exists():
                date.write_bytes(time.time_ns().to_bytes(8, "little"))
    except OSError:
        return  # a folder that cannot be written keeps no programs anyway
