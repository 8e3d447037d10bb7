"""Mean 0 and deviation 1 for each feature, from the fitted part alone."""

from __future__ import annotations

import dataclasses

import numpy as np

FLOOR = 1e-5
"""Features that deviate by less than this share of the largest deviation are left at that scale, not blown up."""


@dataclasses.dataclass(frozen=True)
class Standardiser:
    """What to subtract from and divide by: float32 [D] each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, weights: np.ndarray) -> Standardiser:
        """Statistics of the fitted part, [n, D], whose frames count by `weights` [n]."""
        weights = np.asarray(weights, np.float64) / weights.sum()
        mean = (weights @ x).astype(np.float32)
        deviation = np.sqrt(weights @ (x - mean) ** 2)
        floor = max(FLOOR * float(deviation.max()), float(np.finfo(np.float32).tiny))
        return cls(mean, np.maximum(deviation, floor).astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [..., D]."""
        return (x - self.mean) / self.scale
