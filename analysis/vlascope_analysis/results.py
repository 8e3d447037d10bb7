"""Files of a result: a table, what it was made from, and with which versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from vlascope_base.files import make_folders, replace_file, replacing
from vlascope_base.provenance import provenance

_PACKAGES = ("vlascope-analysis", "vlascope-latents", "jax", "matplotlib", "numpy", "optax", "pandas")


def write_json(path: Path, content: Mapping[str, object]) -> Path:
    """Writes `content`, and with it `versions` and `git_revision`, whole or not at all; NaN becomes null."""
    everything = _plain({**content, **provenance(*_PACKAGES)})
    # escaped where it is not ASCII: stored text may hold what UTF-8 cannot encode
    return write_text(path, json.dumps(everything, indent=1, default=str, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> Path:
    """Writes text, whole or not at all."""
    make_folders(path.parent)
    replace_file(path, content)
    return path


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Writes a table as Parquet, whole or not at all."""
    make_folders(path.parent)
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)
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
