"""Intervals for means over frames, from drawing whole episodes anew.

Frames of one episode resemble each other; only episodes are drawn, with all their frames. Every probe's intervals come
from here.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Means and percentile intervals; arrays of the shape of the leading axes of what was averaged."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def intervals(
    values: np.ndarray, units: np.ndarray, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0,
    bounded: bool = False,
) -> Intervals:  # fmt: skip
    """Mean over frames with a percentile interval of the bootstrap over units.

    Where every unit has the same extreme value, resampling sees no variance; with `bounded` the exact interval of a share
    of n units stands in (Clopper & Pearson 1934): ten of ten right is [0.69, 1], not [1, 1].

    Args:
        values: [..., N], for example whether each frame was right.
        units: [N] the episode of each frame.
        samples: how often to draw.
        confidence: the interval's coverage.
        bounded: values are shares between 0 and 1.
    """
    _, inverse = np.unique(units, return_inverse=True)
    U = int(inverse.max()) + 1
    frames = np.bincount(inverse, minlength=U).astype(np.float64)
    member = np.zeros((len(inverse), U))
    member[np.arange(len(inverse)), inverse] = 1
    sums = np.asarray(values, np.float64) @ member  # [..., U]
    draws = np.random.default_rng([seed, 2]).multinomial(U, np.full(U, 1 / U), size=samples).astype(np.float64)
    means = (sums @ draws.T) / (draws @ frames)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=-1)
    mean = sums.sum(axis=-1) / frames.sum()
    if bounded:
        edge = tail ** (1 / U)
        low, high = np.where(mean >= 1, edge, low), np.where(mean >= 1, 1.0, high)
        low, high = np.where(mean <= 0, 0.0, low), np.where(mean <= 0, 1 - edge, high)
    return Intervals(mean, low, high)


def caution(units: int, low: float, high: float, unit: str) -> list[str]:
    """What to say where there is too little to say anything."""
    warnings = []
    if units < 5:
        warnings.append(f"only {units} test {unit}s: too few for the accuracy to mean anything")
    if high - low > 0.4:
        warnings.append(f"the interval is {high - low:.2f} wide: {units} test {unit}s are too few to tell much")
    return warnings
