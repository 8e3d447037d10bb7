"""The arithmetic between a robot's states and actions and the model's, and back: relative actions, scale, width.

Relative actions and padding are the reference's (openpi, transforms.py: DeltaActions, AbsoluteActions,
PadStatesAndActions), which changes the caller's array; here it stays as it is.

Normalisation is in float64 throughout, as the statistics are. There are two sets of formulas, and a policy needs the one that
it was trained with:

- `zscore` and `quantile` are openpi's (transforms.py: Normalize, Unnormalize): a margin of 1e-6 is added to every deviation
  and every range, on the way in and on the way back.
- `lerobot_zscore` and `lerobot_quantile` are LeRobot's (processor/normalize_processor.py): 1e-8 is added to a deviation on the
  way in only, and takes the place of a range only where that is zero.

A normalised array may be narrower or wider than its statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from vlascope_server.robots.contract import Normalisation
from vlascope_server.robots.norm_stats import NormStats, NormStatsError

OPENPI_MARGIN = 1e-6
"""Keeps a dimension that never moved from dividing by zero.

On the way back such a dimension is its constant, where the reference adds a millionth of what the model says. To a controller
that is no rounding: robosuite's holds an orientation while it is told to turn by 0; told to turn by a millionth, it takes up
whatever the arm has slipped to, step by step.
"""
LEROBOT_MARGIN = 1e-8
"""The `eps` that LeRobot's processors have unless told."""

Mask = Sequence[bool] | Bool[np.ndarray, " m"]
"""Which of the first dimensions of an action it concerns."""


def to_delta(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Mask
) -> Float[np.ndarray, "*lead A a"]:
    """Subtracts the state from the dimensions where `mask` is true, in the actions' dtype; a mask may end early."""
    return _shift(actions, state, mask, -1)


def to_absolute(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Mask
) -> Float[np.ndarray, "*lead A a"]:
    """Adds the state to the dimensions where `mask` is true, in the actions' dtype; inverse of `to_delta`."""
    return _shift(actions, state, mask, 1)


def pad(x: Float[np.ndarray, "*lead d"], width: int) -> Float[np.ndarray, "*lead width"]:
    """Zeros after the last dimension, up to `width`.

    Raises:
        ValueError: `x` is wider than that.
    """
    if x.shape[-1] > width:
        raise ValueError(f"cannot pad {x.shape[-1]} dimensions to {width}")
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def held_by_float32(values: np.ndarray) -> np.ndarray:
    """Which numbers are finite in float32, in which policies compute and stores keep them; bool, of the same shape."""
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


def normalise(x: Float[np.ndarray, "*lead d"], stats: NormStats, kind: Normalisation) -> Float[np.ndarray, "*lead d"]:
    """Z-score: (x - mean) / deviation. Quantile: the 1 % and 99 % quantiles go to -1 and 1, and nothing is clipped.

    Statistics wider than `x` are cut; narrower ones are an error.

    Raises:
        NormStatsError: the statistics are narrower than `x`, or have no quantiles where they are needed.
    """
    d = x.shape[-1]
    if stats.width < d:
        raise NormStatsError(f"statistics of {stats.width} dimensions cannot normalise {d}")
    if kind in ("zscore", "lerobot_zscore"):
        return (x - stats.mean[:d]) / (stats.std[:d] + (OPENPI_MARGIN if kind == "zscore" else LEROBOT_MARGIN))
    low, high = (bound[:d] for bound in quantiles(stats))
    return (x - low) / _range(low, high, kind) * 2.0 - 1.0


def unnormalise(x: Float[np.ndarray, "*lead d"], stats: NormStats, kind: Normalisation) -> Float[np.ndarray, "*lead d"]:
    """Inverse of `normalise`; a dimension that never moved is its constant again, exactly.

    `x` may be wider than the statistics (the model pads): beyond them `zscore` takes mean 0 and deviation 1, so that
    such a number is multiplied by 1 + 1e-6, and the other kinds leave it alone. Statistics wider than `x` are cut.

    Raises:
        NormStatsError: the statistics have no quantiles where they are needed.
    """
    d = min(x.shape[-1], stats.width)
    out = x.astype(np.float64)
    if kind in ("zscore", "lerobot_zscore"):
        margin = OPENPI_MARGIN if kind == "zscore" else 0.0
        std, mean = stats.std[:d], stats.mean[:d]
        out[..., :d] = np.where(std == 0, mean, x[..., :d] * (std + margin) + mean)
        out[..., d:] *= 1.0 + margin
    else:
        low, high = (bound[:d] for bound in quantiles(stats))
        out[..., :d] = np.where(low == high, low, (x[..., :d] + 1.0) / 2.0 * _range(low, high, kind) + low)
    return out


def needs_quantiles(kind: Normalisation) -> bool:
    """Whether a kind is of quantiles rather than of mean and deviation."""
    return kind in ("quantile", "lerobot_quantile")


def quantiles(stats: NormStats) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """The 1 % and 99 % quantiles.

    Raises:
        NormStatsError: they were never measured.
    """
    if stats.q01 is None or stats.q99 is None:
        raise NormStatsError("quantile normalisation needs q01 and q99, and these statistics have only mean and std")
    return stats.q01, stats.q99


def _range(low: Float[np.ndarray, " d"], high: Float[np.ndarray, " d"], kind: Normalisation) -> Float[np.ndarray, " d"]:
    if kind == "quantile":
        return high - low + OPENPI_MARGIN
    return np.where(high == low, LEROBOT_MARGIN, high - low)


def _shift(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Mask, sign: int
) -> Float[np.ndarray, "*lead A a"]:
    d = len(mask)
    out = actions.copy()
    if d:
        out[..., :d] += sign * np.where(mask, state[..., :d], 0)[..., None, :]
    return out
