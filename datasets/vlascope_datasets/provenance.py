"""What a result was made with: versions and git revision. Knows nothing of results."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

_PACKAGES = ("vlascope-datasets", "av", "numpy", "pyarrow")


def provenance() -> dict[str, object]:
    """`versions` by package, and `git_revision`: of the working tree that this code lies in, None outside of one."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return {"versions": found, "git_revision": _git_revision()}


@functools.cache
def _git_revision() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run([git, *words], cwd=here, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return done.stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
