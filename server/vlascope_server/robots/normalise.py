"""Puts states and actions on the model's scale, and back. float64 throughout, as the statistics are.

Formulas and the margin are the reference's (openpi, transforms.py: Normalize, Unnormalize). Knows nothing of robots or
of the model's width: an array may be narrower or wider than its statistics.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vlascope_server.robots.contract import Normalisation
from vlascope_server.robots.norm_stats import NormStats, NormStatsError

_MARGIN = 1e-6
"""Keeps a dimension that never moved from dividing by zero.

On the way back such a dimension is its constant, where the reference adds a millionth of what the model says. To a controller
that is no rounding: robosuite's holds an orientation while it is told to turn by 0; told to turn by a millionth, it takes up
whatever the arm has slipped to, step by step.
"""


def normalise(x: Float[np.ndarray, "*lead d"], stats: NormStats, kind: Normalisation) -> Float[np.ndarray, "*lead d"]:
    """`zscore`: (x - mean) / std. `quantile`: the 1 % and 99 % quantiles go to -1 and 1, and nothing is clipped.

    Statistics wider than `x` are cut; narrower ones are an error.

    Raises:
        NormStatsError: the statistics are narrower than `x`, or have no quantiles where they are needed.
    """
    d = x.shape[-1]
    if stats.width < d:
        raise NormStatsError(f"statistics of {stats.width} dimensions cannot normalise {d}")
    if kind == "zscore":
        return (x - stats.mean[:d]) / (stats.std[:d] + _MARGIN)
    q01, q99 = quantiles(stats)
    return (x - q01[:d]) / (q99[:d] - q01[:d] + _MARGIN) * 2.0 - 1.0


def unnormalise(x: Float[np.ndarray, "*lead d"], stats: NormStats, kind: Normalisation) -> Float[np.ndarray, "*lead d"]:
    """Inverse of `normalise`; a dimension that never moved is its constant again, exactly.

    `x` may be wider than the statistics (the model pads): beyond them `zscore` takes mean 0 and deviation 1, so that
    such a number is multiplied by 1 + 1e-6, and `quantile` leaves it alone. Statistics wider than `x` are cut.

    Raises:
        NormStatsError: the statistics have no quantiles where they are needed.
    """
    d = min(x.shape[-1], stats.width)
    out = x.astype(np.float64)
    if kind == "zscore":
        std, mean = stats.std[:d], stats.mean[:d]
        out[..., :d] = np.where(std == 0, mean, x[..., :d] * (std + _MARGIN) + mean)
        out[..., d:] *= 1.0 + _MARGIN
    else:
        low, high = (bound[:d] for bound in quantiles(stats))
        out[..., :d] = np.where(low == high, low, (x[..., :d] + 1.0) / 2.0 * (high - low + _MARGIN) + low)
    return out


def quantiles(stats: NormStats) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """The 1 % and 99 % quantiles.

    Raises:
        NormStatsError: they were never measured.
    """
    if stats.q01 is None or stats.q99 is None:
        raise NormStatsError("quantile normalisation needs q01 and q99, and these statistics have only mean and std")
    return stats.q01, stats.q99
