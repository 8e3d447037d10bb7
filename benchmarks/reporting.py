"""The JSON line that every benchmark ends with. Knows nothing of what is measured, nor of JAX."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "numpy", "orbax-checkpoint", "tensorstore", "zarr")


def report(
    name: str, config: Mapping[str, Any], results: Mapping[str, Any], out: Path | None, device: str = "cpu"
) -> None:
    """Prints results, configuration, device, versions and revision as one line; writes them to `out` too, if given."""
    line = {
        "benchmark": name,
        "results": results,
        "config": config,
        "device": device,
        "machine": {"cores": len(os.sched_getaffinity(0)), "cpu": platform.machine()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "revision": _revision(),
    }
    print(json.dumps(line, default=str))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(line, indent=1, default=str) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"
