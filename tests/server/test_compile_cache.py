"""The folder of compiled programs has a bound, and is not written to where its disk is nearly full."""

from __future__ import annotations

import os
import subprocess
import sys

import filelock
import pytest
from vlascope_server import compile_cache

PROGRAM = """
import logging
import sys
import jax
from vlascope_server import compile_cache

logging.basicConfig(level="INFO")
compile_cache.PROGRAM_BYTES, compile_cache.FREE_BYTES = int(sys.argv[1]), int(sys.argv[2])
compile_cache._WORTH_KEEPING = 0.0
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
compile_cache.use_compilation_cache()
for size in range(1, 9):
    compile_cache.heed_free_space()
    jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.zeros((size, 3)))
"""


def compile_some(tmp_path, most: int, free: int, said: list[str] | None = None) -> dict[str, int]:
    """The programs that are kept after eight compiles, and their bytes; `said` gets what was written to stderr."""
    environment = {**os.environ, "VLASCOPE_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    told = (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_COMPILATION_CACHE_MAX_SIZE",
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS",
    )
    for name in told:
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(most), str(free)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Error writing" not in done.stderr
    if said is not None:
        said.append(done.stderr)
    return {path.name: path.stat().st_size for path in (tmp_path / "xla").glob("*-cache")}


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_damaged_program_is_removed_and_written_anew(tmp_path, share):
    kept = compile_some(tmp_path, 10**9, 0)
    folder = tmp_path / "xla"
    damaged = [next(folder.glob("jit__lambda-*-cache")), next(folder.glob("jit_broadcast_in_dim-*-cache"))]
    for program in damaged:
        os.truncate(program, int(share * program.stat().st_size))
    others = {path.name for path in folder.glob("*-cache")} - {path.name for path in damaged}
    before = {name: (folder / name).stat().st_mtime_ns for name in others}
    said: list[str] = []
    again = compile_some(tmp_path, 10**9, 0, said)
    assert again.keys() == kept.keys()
    # a program may be a few bytes longer than it was
    assert list(again.values()) == pytest.approx([kept[name] for name in again], rel=0.02)
    assert "persistent compilation cache" not in said[0]
    assert said[0].count("this compiled program was damaged and is removed; it is compiled again") == 2
    assert {name: (folder / name).stat().st_mtime_ns for name in others} == before
    compile_some(tmp_path, 10**9, 0, said)
    assert "damaged" not in said[1]


def test_a_program_that_another_process_holds_is_not_damaged(tmp_path):
    program, shown = tmp_path / "jit_step-0f-cache", []
    program.write_bytes(b"whole")
    mender = compile_cache._Mender(tmp_path, lambda message, *_: shown.append(message))
    reading = "Error reading persistent compilation cache entry for 'jit_step': "
    held = f"{reading}{filelock.Timeout.__name__}: {filelock.Timeout(str(tmp_path / '.lockfile'))}"
    mender(held, UserWarning, "compiler.py", 1)
    assert (program.exists(), shown) == (True, [held])
    mender(f"{reading}ValueError: cut short", UserWarning, "compiler.py", 1)
    assert (program.exists(), shown) == (False, [held])


def test_what_was_used_longest_ago_makes_room(tmp_path):
    everything = compile_some(tmp_path, 10**9, 0)
    assert len(everything) >= 8
    # a program of a process that was killed before it wrote the date
    next((tmp_path / "xla").glob("*-atime")).unlink()
    most = sum(everything.values()) // 2
    for path in (tmp_path / "xla").glob("jit__lambda*"):
        path.unlink()
    kept = compile_some(tmp_path, most, 0)
    assert 0 < sum(kept.values()) <= most


def test_a_disk_that_is_nearly_full_is_not_written_to(tmp_path):
    assert compile_some(tmp_path, 10**9, 10**18) == {}
