"""Rates with their intervals, and percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5th percentile of the normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a rate (Wilson 1927, equation 4); (0, 1) where nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, _Z * _Z / trials
    centre = (rate + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials)) / (1 + z2)
    # Rounding would leave 0 out of nothing's interval, and 1 out of everything's.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """`p50`, `p95`, `p99` and `mean`; None of nothing."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "mean": float(np.mean(values))}
