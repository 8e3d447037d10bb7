"""What ran: versions, git revision, device. Written beside every result. Knows nothing of the result."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("vlascope-server", "vlascope-latents", "jax", "jaxlib", "numpy", "orbax-checkpoint")


def provenance() -> dict[str, Any]:
    """`versions` by package, `git_revision` (None outside a checkout of the source), `device`."""
    import jax

    return {"versions": versions(), "git_revision": git_revision(), "device": jax.devices()[0].device_kind}


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_revision() -> str | None:
    """`git describe` of the source that runs, with `-dirty` where files were changed; None where it is no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        git = subprocess.run(  # noqa: S603
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
