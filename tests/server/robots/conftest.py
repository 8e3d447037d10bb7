"""The reference's own preprocessing results, whole or as the compact set in this repository."""

import os
from pathlib import Path

import numpy as np
import pytest

LEFT_OUT_OF_COMPACT = (
    "resize/pil/480x640/",
    "resize/pil/256x256/",
    "resize/pil/224x224/",
    "resize/jax/256x256_uint8/",
    "libero_inputs/hwc_uint8/wrist_in",
    "chain/image/left_wrist_0_rgb",
    "chain/image/right_wrist_0_rgb",
)
"""Large arrays whose absence skips a test; any other that is absent fails it."""


class Preprocessing:
    """Name -> array."""

    def __init__(self, path: Path):
        self._file = np.load(path)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._file and name.startswith(LEFT_OUT_OF_COMPACT):
            pytest.skip(f"{name} is only in the full goldens; set VLASCOPE_GOLDENS to their folder")
        return self._file[name]


@pytest.fixture(scope="session")
def golden() -> Preprocessing:
    if folder := os.environ.get("VLASCOPE_GOLDENS"):
        return Preprocessing(Path(folder) / "preprocessing.npz")
    path = Path(__file__).parents[2] / "goldens" / "preprocessing.npz"
    if not path.exists():
        pytest.skip(f"no goldens: {path} is missing and VLASCOPE_GOLDENS is not set")
    return Preprocessing(path)


def _rows(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Those rows of an image that `expected` has: the compact set keeps every few."""
    return found[..., :: found.shape[-3] // expected.shape[-3], :, :]


@pytest.fixture
def rows():
    return _rows
