"""Keeps what a capture plan selects of a block's taps, inside the jitted program.

Here are also the two loops that capture rides on, over layers and over denoise steps. Both are scans, cut where the
selection changes: what is not selected runs the plain body, so that it is neither reduced, converted nor copied.
Knows nothing of what a block computes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from vlascope_latents import CapturePlan, ExpertPlan, TokenGroup

from vlascope_server.model.gemma import Taps

Latents = dict[str, jax.Array]
"""`<expert>/<component>` -> captured array with the batch as its first axis and the plan's axes after it."""


@dataclasses.dataclass(frozen=True)
class TapSelector:
    """Selects and reduces the tokens of one expert's taps.

    Attributes:
        plan: what to keep of this expert.
        reduction: `none`, `mean` or `last`.
        dtype: of components with a feature axis.
        valid: which tokens are real; reductions see only these.
    """

    plan: ExpertPlan
    reduction: str
    dtype: str
    valid: Bool[Array, "B T"]

    @classmethod
    def of(cls, plan: CapturePlan | None, expert: str, valid: Bool[Array, "B T"]) -> TapSelector | None:
        """The selector of one expert, or None where none of its tokens is captured."""
        if plan is None or (expert_plan := plan.expert(expert)) is None:
            return None
        return cls(expert_plan, plan.spec.reduction, plan.spec.dtype, valid)

    def keep(self, taps: Taps) -> Taps:
        """The selected components of one block, their tokens selected or reduced: [B, token or span, ...]."""
        return {component: self._select(taps[component]) for component in self.plan.components}

    def _select(self, tap: Float[Array, "B T ..."]) -> Float[Array, "B T_kept ..."]:
        if self.reduction == "none":
            kept = _tokens(tap, self.plan.groups[0])
        else:
            reduce = {"mean": _mean, "last": _last}[self.reduction]
            groups = self.plan.groups
            kept = jnp.stack([reduce(_tokens(tap, g), _tokens(self.valid, g)) for g in groups], axis=1)
        return kept.astype(self.dtype if tap.ndim == 3 else jnp.float32)


def scan_tapped(
    body: Callable[[Any, Any, bool], tuple[Any, tuple[Any, Taps]]],
    carry: Any,
    stacked: Any,
    selected: Sequence[int],
    *,
    stop: int | None = None,
) -> tuple[Any, Any, Taps]:
    """Scans over the leading axis of `stacked` (layers, denoise steps), collecting taps at the `selected` entries only.

    Args:
        body: `body(carry, entry, tapped)` returns the next carry and a pair: what is wanted of every entry, and taps,
            empty unless `tapped`.
        carry: what the body hands from entry to entry.
        stacked: a pytree of arrays with one leading axis.
        selected: the entries whose taps are collected.
        stop: where to end early; default at the end.

    Returns:
        The last carry; the first outputs of all entries stacked; the taps of the selected entries stacked.
    """
    length = jax.tree.leaves(stacked)[0].shape[0]
    every, kept = [], []
    for first, last, tapped in _runs(length if stop is None else stop, selected):
        if (first, last) == (0, length):
            carry, (always, taps) = jax.lax.scan(lambda c, entry, t=tapped: body(c, entry, t), carry, stacked)
        else:
            # a slice of the stack would copy the weights; an index into it does not
            carry, (always, taps) = jax.lax.scan(
                lambda c, i, t=tapped: body(c, _entry(stacked, i), t), carry, jnp.arange(first, last)
            )
        every.append(always)
        kept.append(taps)
    return carry, join(every), join(kept)


def join(parts: Sequence[Any]) -> Any:
    """Concatenates equal pytrees along their leading axis; empty ones are left out."""
    filled = [part for part in parts if jax.tree.leaves(part)]
    if len(filled) < 2:
        return filled[0] if filled else {}
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *filled)


def _entry(stacked: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)


def _runs(stop: int, selected: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Cuts 0..stop into maximal runs (first, last, whether selected), `last` exclusive."""
    runs = []
    for tapped, group in itertools.groupby(range(stop), key=lambda i: i in selected):
        indices = list(group)
        runs.append((indices[0], indices[-1] + 1, tapped))
    return runs


def _tokens(array: jax.Array, group: TokenGroup) -> jax.Array:
    """The group's tokens of an array [B, T, ...]."""
    if group.ranges == ((0, array.shape[1]),):
        return array
    return jnp.concatenate([array[:, start:stop] for start, stop in group.ranges], axis=1)


def _mean(tokens: Float[Array, "B n ..."], valid: Bool[Array, "B n"]) -> Float[Array, "B ..."]:
    """Float32 mean over the valid tokens; NaN where there is none."""
    weights = valid.astype(jnp.float32)
    return jnp.einsum("Bn,Bn...->B...", weights, tokens.astype(jnp.float32)) / _counts(weights, tokens.ndim)


def _last(tokens: Float[Array, "B n ..."], valid: Bool[Array, "B n"]) -> Float[Array, "B ..."]:
    """The last valid token; NaN where there is none."""
    n = valid.shape[1]
    index = jnp.max(jnp.where(valid, jnp.arange(n), -1), axis=1)
    rank = (slice(None), *(None,) * (tokens.ndim - 1))
    last = jnp.take_along_axis(tokens, jnp.maximum(index, 0)[rank], axis=1)[:, 0]
    return jnp.where((index < 0)[rank[:-1]], jnp.nan, last)


def _counts(weights: Float[Array, "B n"], ndim: int) -> Float[Array, "B ..."]:
    return jnp.sum(weights, axis=1).reshape(-1, *(1,) * (ndim - 2))
