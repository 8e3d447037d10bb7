"""What a site of a plan keeps of a component's whole value, in numpy: the rules of selecting and reducing, for any policy.

A policy that computes with numpy keeps what this gives. One that selects on an accelerator is compared with it, as Pi0 is.

B batch, T tokens of the expert's sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from vlascope_latents.layout import STEP_AXES
from vlascope_latents.plan import SitePlan
from vlascope_latents.tokens import TokenGroup

_WHOLE = {"span": "token", "key_span": "key"}
"""An axis of a reduced tensor -> the component's axis in whose place it stands."""
_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32), "int32": np.dtype(np.int32)}


def site_value(site: SitePlan, whole: ArrayLike, valid: np.ndarray | None = None) -> np.ndarray:
    """What `site` keeps of its component.

    1. Steps, layers and heads are those that the plan numbers.
    2. Of tokens that are not reduced, the positions of the group's `ranges` come first, padding or not, and then its `ends`:
       -1 is the prompt's last valid token, -2 the one before. Where a prompt is too short for one, it is NaN.
    3. `mean` and `last` see the valid tokens of each group, ranges and ends alike, and are NaN where there is none. A mean is
       computed in float32.
    4. Of reduced attention, the probabilities of each group of keys are summed before its queries are reduced.

    Args:
        site: of a plan.
        whole: [B, ...], the whole component of every observation: the expert's steps first, where it has a loop, then the
            component's axes as the layout has them.
        valid: bool [B, T], which tokens of the expert's sequence are no padding; all of them unless given.

    Returns:
        [B, *site.tensor.shape] in the tensor's dtype; bfloat16 is that of ml_dtypes. A token that is missing is 0 in int32.
    """
    value = np.asarray(whole)
    value = value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
    dims = ["batch", *(_WHOLE.get(dim, dim) for dim in site.tensor.dims)]
    for dim in dims:
        numbers = {"layer": site.layers, "head": site.heads, **dict.fromkeys(STEP_AXES.values(), site.steps)}.get(dim)
        if numbers is not None:
            value = np.take(value, numbers, axis=dims.index(dim))
    if site.keys:
        value = _keys(value, site.keys, dims.index("key"), reduced=site.reduction != "none")
    if site.groups:
        axis = dims.index("token")
        value = np.moveaxis(value, axis, 1)
        known = np.ones(value.shape[:2], bool) if valid is None else np.asarray(valid, bool)
        value = np.moveaxis(_tokens(site, value, known), 1, axis)
    dtype = _DTYPES[site.tensor.dtype]
    return (np.nan_to_num(value) if dtype.kind == "i" else value).astype(dtype)


def _keys(value: np.ndarray, groups: Sequence[TokenGroup], axis: int, *, reduced: bool) -> np.ndarray:
    parts = [np.take(value, _positions(group), axis=axis) for group in groups]
    return np.stack([part.sum(axis=axis) for part in parts], axis=axis) if reduced else parts[0]


def _tokens(site: SitePlan, value: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The tokens of a value [B, T, ...], selected or reduced."""
    kept = []
    for group in site.groups:
        index, real = _places(group, valid, site.prompt)
        tokens = np.take_along_axis(value, _beside(index, value), axis=1)
        if site.reduction == "none":
            real[:, : len(_positions(group))] = True
            return tokens if real.all() else np.where(_beside(real, value), tokens, np.nan)
        none = ~_beside(np.any(real, axis=1), value[:, 0])
        if site.reduction == "mean":
            counts = np.maximum(real.sum(axis=1), 1)
            summed = np.where(_beside(real, value), tokens, 0).astype(np.float32).sum(axis=1)
            reduced = summed / _beside(counts, summed)
        else:
            last = real.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
            reduced = np.take_along_axis(tokens, _beside(last[:, None], value), axis=1)[:, 0]
        kept.append(np.where(none, np.nan, reduced))
    return np.stack(kept, axis=1)


def _places(group: TokenGroup, valid: np.ndarray, prompt: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a group's tokens, [B, n], and which of them are real."""
    fixed = _positions(group)
    index = np.zeros((len(valid), len(group)), int)
    real = np.zeros(index.shape, bool)
    index[:, : len(fixed)], real[:, : len(fixed)] = fixed, valid[:, fixed]
    if prompt is not None:
        for row in range(len(valid)):
            words = prompt[0] + np.flatnonzero(valid[row, slice(*prompt)])
            for column, end in enumerate(group.ends, len(fixed)):
                if -end <= len(words):
                    index[row, column], real[row, column] = words[end], True
    return index, real


def _positions(group: TokenGroup) -> list[int]:
    return sorted(group.positions)


def _beside(array: np.ndarray, value: np.ndarray) -> np.ndarray:
    """`array` with as many axes as `value`."""
    return array.reshape(*array.shape, *(1,) * (value.ndim - array.ndim))
