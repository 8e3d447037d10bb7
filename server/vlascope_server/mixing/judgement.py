"""What losses on other episodes say: means with intervals, and whether mixing helped.

The best checkpoint, and with `all` the best method, are chosen on the selection episodes. What is said of them is said on the
validation episodes, which nothing was chosen on, so that it is not flattered by the choice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats
from vlascope_base.text import counted

from vlascope_server.mixing.losses import EpisodeLosses

LEVEL = 0.95
"""Of the intervals."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over episodes, and the ends of Student's interval; they are NaN where there are fewer than two episodes."""

    mean: float
    low: float
    high: float
    episodes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """A policy and its losses.

    Attributes:
        name: a checkpoint's location, or a method.
        weights: of a mix: a row for each group; None of a checkpoint, and of task arithmetic.
        selection: on the episodes that weights are chosen on.
        validation: on the others.
    """

    name: str
    weights: Float[np.ndarray, "G K"] | None
    selection: EpisodeLosses
    validation: EpisodeLosses


def interval(values: Float[np.ndarray, " E"]) -> Interval:
    """The mean of independent values, one of each episode."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def best_of(judged: Sequence[Judged]) -> Judged:
    """The one with the lowest loss on the selection episodes."""
    return min(judged, key=lambda entry: entry.selection.mean)


def compared(mix: Judged, other: Judged) -> Interval:
    """The loss of a mix less that of another policy, paired by episode of the validation data."""
    return interval(mix.validation.values - other.validation.values)


def verdict(mix: Judged, inputs: Sequence[Judged]) -> str:
    """One sentence that says whether mixing helped, as far as these episodes can tell."""
    best = best_of(inputs)
    found = compared(mix, best)
    against = f"than {best.name}, the checkpoint with the lowest loss on the selection episodes"
    said = (
        f"its loss less that checkpoint's is {found.mean:+.4g}, 95% interval {found.low:+.4g} to {found.high:+.4g} over"
        f" {counted(found.episodes, 'validation episode')}"
    )
    if not np.any(mix.validation.values != best.validation.values):
        return f"The mix is {best.name} itself on these data: no loss differs on any validation episode."
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        count = counted(found.episodes, "validation episode")
        return f"Whether mixing helped cannot be concluded: {count} give no interval."
    if found.high < 0:
        return f"Mixing helped: the mix has a lower loss {against} ({said})."
    if found.low > 0:
        return f"Mixing hurt: the mix has a higher loss {against} ({said})."
    return (
        f"Whether mixing helped cannot be concluded: the mix is neither better nor worse {against}, as far as these episodes"
        f" can tell ({said})."
    )
