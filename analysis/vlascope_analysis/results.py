"""Files of a result: a table, what it was made from, and with which versions. Knows nothing of any one analysis."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from vlascope_base.provenance import git_revision, versions

_PACKAGES = ("vlascope-analysis", "vlascope-latents", "jax", "matplotlib", "numpy", "optax", "pandas")


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes `content`, and with it `versions` and `git_revision`, whole or not at all; NaN becomes null."""
    everything = {**content, "versions": versions(*_PACKAGES), "git_revision": git_revision()}
    return _replace(path, (json.dumps(_plain(everything), indent=1, default=str, allow_nan=False) + "\n").encode())


def write_text(path: Path, content: str) -> Path:
    """Writes text, whole or not at all."""
    return _replace(path, content.encode())


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Writes a table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)
    return path


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows, ready for JSON."""
    return [_plain(row) for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _replace(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, 0o644)
    os.replace(partial, path)
    return path
