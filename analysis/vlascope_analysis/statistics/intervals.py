"""Means over episodes that count classes alike, and intervals that speak of other episodes.

The accuracy of a cross-validated probe varies more than its episodes alone would make it: they share training sets,
and no unbiased estimate of that exists (Bengio & Grandvalet 2004). Here several random assignments to folds are
averaged, and the variance between units (episodes, or the initial states or scenes that several episodes have) is
multiplied by a factor that was chosen by simulation; `benchmarks/probe_statistics.py` measures what the intervals cover.
Shares get Wilson's interval (1927) with the sample size that this variance implies (as Korn & Graubard 1998 do for exact
intervals), other means Student's.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import stats

from vlascope_analysis.statistics.units import unit_weights

ASSIGNMENTS = 5
"""Random assignments to folds that an accuracy is averaged over."""

INFLATION = 1.25
"""Of the variance between units, for the mean of five assignments."""


def balanced(labels: np.ndarray, weights: np.ndarray, pools: np.ndarray | None = None) -> np.ndarray:
    """Weights of episodes with which classes count alike, float64 [R, U], each row summing to 1.

    Where there are pools, they count alike, and so do the classes of each pool: whatever one answers by the pool alone is right
    as often as any other answer.

    Args:
        labels: int [R, U].
        weights: float [U] of episodes, whatever their class.
        pools: int [U] from 0; all episodes are of one unless given.
    """
    R, C = len(labels), int(labels.max(initial=0)) + 1
    own = np.zeros(labels.shape[1], np.int64) if pools is None else pools
    P = int(own.max(initial=0)) + 1
    apart = labels + C * (own + P * np.arange(R)[:, None])
    sums = np.bincount(apart.ravel(), np.broadcast_to(weights, labels.shape).ravel(), minlength=R * P * C)
    present = np.count_nonzero(sums.reshape(R, P, C), axis=2)
    count = np.count_nonzero(present, axis=1)
    return weights / (count[:, None] * present[:, own] * sums[apart])


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Means:
    """How episodes are averaged: within units first, then within classes, then over them; and which vary together.

    Attributes:
        label: int [U].
        units: int [U] what is independent: the episode, or the initial state or scene that it has.
        inflation: factor of the variance between units.
        pools: int [U] the scenes inside which classes count alike, from 0; None where they do over all episodes.
    """

    label: np.ndarray
    units: np.ndarray
    inflation: float
    pools: np.ndarray | None = None

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """The weight of each episode, float64 [U], summing to 1."""
        return balanced(self.label[None], unit_weights(self.units), self.pools)[0]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The weighted mean over episodes: [..., U] to float64 [...]."""
        return np.asarray(values, np.float64) @ self.weights

    def share(self, values: np.ndarray, confidence: float) -> Interval:
        """The mean of values between 0 and 1, float [assignments, U], with Wilson's interval, which is sound at 0 and 1 too."""
        mean, variance, count = self._moments(values)
        z = _quantile(confidence, count)
        if not np.isfinite(z):
            return Interval(mean, 0.0, 1.0)
        # where all agree but for rounding, they are so many draws
        n = mean * (1 - mean) / variance if variance > 1e-12 else count
        half = z * np.sqrt(max(mean * (1 - mean), 0) / n + (z / (2 * n)) ** 2)
        centre, scale = mean + z * z / (2 * n), 1 + z * z / n
        return Interval(mean, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))

    def any(self, values: np.ndarray, confidence: float) -> Interval:
        """The mean of any values, such as cosines or paired differences, float [assignments, U], with Student's interval."""
        mean, variance, count = self._moments(values)
        z = _quantile(confidence, count)
        half = z * np.sqrt(variance) if np.isfinite(z) else np.inf
        return Interval(mean, mean - half, mean + half)

    def difference(self, values: np.ndarray, confidence: float) -> Interval:
        """The mean of paired differences of shares, float [assignments, U] from -1 to 1, with Student's interval after one pair
        each way was added, each with half a weight (Agresti & Min 2005): it is sound where all differences are the same.

        `mean` is that of the differences as they are.
        """
        mean, variance, count = self._moments(values)
        z = _quantile(confidence, count)
        if not np.isfinite(z):
            return Interval(mean, -1.0, 1.0)
        centre = mean * count / (count + 2)
        spread = (count * (variance * count + mean**2) + 1) / (count + 2) - centre**2
        half = z * np.sqrt(spread / (count + 2))
        return Interval(mean, max(-1.0, centre - half), min(1.0, centre + half))

    def _moments(self, values: np.ndarray) -> tuple[float, float, float]:
        """Mean, variance of the mean (inflated), and the effective number of units.

        The variance is that of sums over units of (value - mean) x weight; a unit may hold episodes of several classes.
        Where units weigh unequally, as the few episodes of a rare class do, so many of equal weight tell as much (Kish
        1965): 1 / sum of squared weights.
        """
        values = np.atleast_2d(np.asarray(values, np.float64))
        means = values @ self.weights
        _, place = np.unique(self.units, return_inverse=True)
        own = np.bincount(place, self.weights)
        count = 1 / float((own**2).sum())
        if len(own) < 2:
            return float(means.mean()), 0.0, count
        variances = []
        for run, mean in zip(values, means, strict=True):
            sums = np.bincount(place, (run - mean) * self.weights)
            linear = ((sums - sums.mean()) ** 2).sum()
            # of few units with great weights the deviations may agree by chance: those of all units stand in
            pooled = ((sums / own) ** 2 @ own) * (own**2).sum()
            variances.append(count / (count - 1) * max(linear, pooled))
        return float(means.mean()), float(np.mean(variances)) * self.inflation, count


def _quantile(confidence: float, count: float) -> float:
    """Student's quantile with `count` - 1 degrees of freedom; infinite for a single unit."""
    return float(stats.t.ppf((1 + confidence) / 2, count - 1)) if count > 1 + 1e-9 else np.inf


def caution(units: int, low: float, high: float, unit: str) -> list[str]:
    """What to say where there is too little to say anything."""
    warnings = []
    if units < 6:
        warnings.append(
            f"only {units} test {unit}s: too few for the accuracy, its interval or its p value to mean much"
        )
    if high - low > 0.4:
        warnings.append(f"the interval is {high - low:.2f} wide: {units} test {unit}s are too few to tell much")
    return warnings
