"""What a result was made with: versions, git revision, machine. Knows nothing of results."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

_PACKAGES = ("vlascope-sim", "vlascope-client", "hf-libero", "robosuite", "mujoco", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Version of every package that decides a result, and of Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


@functools.cache
def git_revision() -> str | None:
    """Of the working tree that this code lies in, with `+changes` where files differ; None outside of one."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        head = _output_of(git, "rev-parse", "HEAD")
        changes = _output_of(git, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


def _output_of(git: str, *args: str) -> str:
    command = [git, "-C", str(Path(__file__).parent), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def machine() -> dict[str, str | int | None]:
    """Where it ran."""
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}
