"""Mean 0 and deviation 1 for each feature, from the training part alone."""

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
    def fit(cls, x: np.ndarray) -> Standardiser:
        """Statistics of the training part, [N, D]."""
        mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        floor = max(FLOOR * float(deviation.max()), np.finfo(np.float32).tiny)
        return cls(mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [..., D]."""
        return (x - self.mean) / self.scale
