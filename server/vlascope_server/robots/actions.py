"""Actions relative to the state and back, and zero-padding to the model's width.

Formulas are the reference's (openpi, transforms.py: DeltaActions, AbsoluteActions, PadStatesAndActions), which changes the
caller's array; here it stays as it is. Knows nothing of which dimensions a robot makes relative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def to_delta(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Sequence[bool]
) -> Float[np.ndarray, "*lead A a"]:
    """Subtracts the state from the dimensions where `mask` is true, in the actions' dtype; a mask may end early."""
    return _shift(actions, state, mask, -1)


def to_absolute(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Sequence[bool]
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


def _shift(
    actions: Float[np.ndarray, "*lead A a"], state: Float[np.ndarray, "*lead s"], mask: Sequence[bool], sign: int
) -> Float[np.ndarray, "*lead A a"]:
    d = len(mask)
    out = actions.copy()
    if d:
        out[..., :d] += sign * np.where(mask, state[..., :d], 0)[..., None, :]
    return out
