"""Compiled programs that outlive their process.

Where they are kept, how much of a disk they may take, and what becomes of damaged ones.
"""

from __future__ import annotations

import glob
import logging
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlascope_base.cache import PROGRAMS, cache_folder
from vlascope_base.files import remove

_log = logging.getLogger(__name__)

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
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / PROGRAMS))
    if jax.config.values.get("jax_compilation_cache_max_size") == -1:
        jax.config.update("jax_compilation_cache_max_size", PROGRAM_BYTES)
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    _date_programs(folder)
    if not isinstance(warnings.showwarning, _Mender):
        warnings.showwarning = _Mender(folder, warnings.showwarning)
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


class _Mender:
    """Takes the place of `warnings.showwarning`, and removes a program that JAX could not read.

    JAX warns of such a program at every start, compiles it, and does not write it again as long as the damaged file is there.
    It warns before it compiles: where the file is gone by then, it is written anew. All other warnings are shown as before,
    among them that on a busy machine another process held the folder for too long: no program is damaged then.
    """

    def __init__(self, folder: Path, show: Callable[..., None]):
        self._folder, self._show = folder, show

    def __call__(self, message: Warning | str, *rest: Any, **named: Any) -> None:
        found = re.search("Error reading persistent compilation cache entry for '([^']+)': (?!Timeout:)", str(message))
        if found is None or not self._remove(found[1]):
            self._show(message, *rest, **named)

    def _remove(self, module: str) -> bool:
        """The damaged one is the program of that name that was used last: JAX dates it when it reads it."""
        programs = [(_date_of(program), program) for program in self._folder.glob(f"{glob.escape(module)}-*-cache")]
        if not programs:
            return False
        _, program = max(programs)
        remove(program)
        remove(_date_file(program))
        if program.exists():
            return False
        _log.info("%s: this compiled program was damaged and is removed; it is compiled again", program)
        return True


def _date_file(program: Path) -> Path:
    return program.with_name(program.name.removesuffix("-cache") + "-atime")


def _date_of(program: Path) -> int:
    try:
        return int.from_bytes(_date_file(program).read_bytes(), "little")
    except OSError:
        return 0


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
            date = _date_file(program)
            if not date.exists():
                date.write_bytes(time.time_ns().to_bytes(8, "little"))
    except OSError:
        return  # a folder that cannot be written keeps no programs anyway
