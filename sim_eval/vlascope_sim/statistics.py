"""Rates with their intervals, and percentiles."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5th percentile of the normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a rate (Wilson 1927, equation 4); (0, 1) where nothing was tried."""
    return (0.0, 1.0) if trials == 0 else _wilson(successes / trials, trials)


def _wilson(rate: float, trials: float) -> tuple[float, float]:
    z2 = _Z * _Z / trials
    centre = (rate + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials)) / (1 + z2)
    # Rounding would leave 0 out of nothing's interval, and 1 out of everything's.
    return 0.0 if rate == 0 else centre - half, 1.0 if rate == 1 else centre + half


def paired_interval(
    this: Sequence[bool], that: Sequence[bool], scenes: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """95 % interval of the difference of two rates over the same episodes, `this` minus `that`.

    Method 10 of Newcombe (1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 17, 2635-2650): Wilson's intervals of both rates, joined by their correlation, with a
    continuity correction. It has a width where all pairs agree too, unlike a bootstrap. Of few pairs it leaves out 0 somewhat
    too often; so it is extended to 0 where McNemar's test in its exact form (Fagerland, Lydersen and Laake 2013, BMC Medical
    Research Methodology 13:91) does not tell the two apart at 5 %.

    Repeats of one scene are no new scenes. Where differences within a scene go together, the numbers of pairs are divided by
    the design effect (Kish 1965, Survey Sampling): the variance of the mean difference with scenes as clusters, over its
    variance with independent pairs, and never less than 1.

    Args:
        this, that: whether each episode succeeded, [n] with n at least 1.
        scenes: of which scene each pair is; each of its own unless given.
    """
    x, y = np.asarray(this, bool), np.asarray(that, bool)
    weight = 1 / _design_effect(x.astype(float) - y, scenes)
    both, only_x, only_y, neither = (weight * np.count_nonzero(k) for k in (x & y, x & ~y, ~x & y, ~x & ~y))
    n = weight * len(x)
    rates = (both + only_x) / n, (both + only_y) / n
    (low_x, high_x), (low_y, high_y) = (_wilson(rate, n) for rate in rates)
    product = both * neither - only_x * only_y
    if product > 0:
        product = max(product - n / 2, 0.0)
    margins = (both + only_x) * (only_y + neither) * (both + only_y) * (only_x + neither)
    phi = product / math.sqrt(margins) if margins else 0.0
    difference = rates[0] - rates[1]
    below, above = (
        math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
        for a, b in ((rates[0] - low_x, high_y - rates[1]), (high_x - rates[0], rates[1] - low_y))
    )
    low, high = difference - below, difference + above
    if _mcnemar(round(only_x), round(only_y)) >= 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _mcnemar(only_this: int, only_that: int) -> float:
    """Two-sided exact p-value that pairs which disagree do so in either way as often."""
    n, fewer = only_this + only_that, min(only_this, only_that)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def _design_effect(differences: np.ndarray, scenes: Sequence[Hashable] | None) -> float:
    centred = differences - differences.mean()
    total = float((centred**2).sum())
    if scenes is None or total == 0:
        return 1.0 if scenes is None else len(differences) / len(set(scenes))
    sums: dict[Hashable, float] = {}
    for scene, value in zip(scenes, centred, strict=True):
        sums[scene] = sums.get(scene, 0.0) + float(value)
    return max(1.0, sum(value**2 for value in sums.values()) / total)


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """`p50`, `p95`, `p99` and `mean`; None of nothing."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "mean": float(np.mean(values))}
