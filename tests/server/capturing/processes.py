"""The command in a process of its own, and how to end it at real moments."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(*options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "vlascope_server", "capture", *map(str, options)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def committed(store: Path) -> int:
    """Frames in the indices of the run in a store, however far it is."""
    count = 0
    for file in store.glob("*/index/*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # what was not sealed is discarded meanwhile
            count += file.read_bytes().count(b"\n")
    return count


def kill_at(process: subprocess.Popen, store: Path, frames: int) -> None:
    """SIGKILL once so many frames are committed."""
    deadline = time.monotonic() + 200
    while committed(store) < frames:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
