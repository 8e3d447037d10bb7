"""Keeps what a capture plan selects of a block's taps, inside the jitted program.

Selected values are written in place into arrays of the plan's shapes, which the loops over layers and denoise steps carry
along. The loops are scans, cut where the selection changes: what is not selected runs the plain body, so that it is
neither reduced, converted nor copied.
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

_bitcast = jax.lax.bitcast_convert_type

Latents = dict[str, jax.Array]
"""`<expert>/<component>` -> captured array: the batch, then the axes of the plan's tensor."""
Slots = tuple[jax.Array | int, ...]
"""Where a value belongs in a captured array: its place among the selected denoise steps and layers."""


def empty_latents(plan: CapturePlan | None, batch_size: int) -> Latents:
    """Arrays for everything that the plan captures, to be written by `record` and handed out by `finished`.

    Until then bfloat16 is kept as its bits: on a CPU, XLA writes uint16 into an array 15 times faster than bfloat16.
    """
    tensors = plan.tensors if plan else ()
    dtypes = {"bfloat16": jnp.uint16, "float32": jnp.float32}
    return {tensor.path: jnp.zeros((batch_size, *tensor.shape), dtypes[tensor.dtype]) for tensor in tensors}


def record(latents: Latents, expert: str, values: Taps, slots: Slots) -> Latents:
    """The latents with each of `values` [B, ...] written at `slots`, the axes behind the batch."""

    def write(array: jax.Array, value: jax.Array) -> jax.Array:
        bits = array.dtype == jnp.uint16
        value = _bitcast(value.astype(jnp.bfloat16), jnp.uint16) if bits else value.astype(array.dtype)
        update = jnp.expand_dims(value, tuple(range(1, len(slots) + 1)))
        return jax.lax.dynamic_update_slice(array, update, (0, *slots, *(0,) * (value.ndim - 1)))

    paths = {f"{expert}/{component}": value for component, value in values.items()}
    return latents | {path: write(latents[path], value) for path, value in paths.items()}


def finished(latents: Latents) -> Latents:
    """The captured arrays in the dtypes of the plan."""
    return {path: _bitcast(a, jnp.bfloat16) if a.dtype == jnp.uint16 else a for path, a in latents.items()}


@dataclasses.dataclass(frozen=True)
class TapSelector:
    """Selects and reduces the tokens of one expert's taps.

    Attributes:
        plan: what to keep of this expert.
        reduction: `none`, `mean` or `last`.
        valid: which tokens are real; reductions see only these.
    """

    plan: ExpertPlan
    reduction: str
    valid: Bool[Array, "B T"]

    @classmethod
    def of(cls, plan: CapturePlan | None, expert: str, valid: Bool[Array, "B T"]) -> TapSelector | None:
        """The selector of one expert, or None where none of its tokens is captured."""
        if plan is None or (expert_plan := plan.expert(expert)) is None:
            return None
        return cls(expert_plan, plan.spec.reduction, valid)

    def record(self, latents: Latents, taps: Taps, slots: Slots) -> Latents:
        """Writes one block's selected components, their tokens selected or reduced."""
        values = {component: self._select(taps[component]) for component in self.plan.components}
        return record(latents, self.plan.name, values, slots)

    def _select(self, tap: Float[Array, "B T ..."]) -> Float[Array, "B T_kept ..."]:
        groups = self.plan.groups
        if self.reduction == "none":
            return _tokens(tap, groups[0])
        reduce = {"mean": _mean, "last": _last}[self.reduction]
        return jnp.stack([reduce(_tokens(tap, group), _tokens(self.valid, group)) for group in groups], axis=1)


def scan_tapped(
    body: Callable[[Any, Any, jax.Array | None], tuple[Any, Any]],
    carry: Any,
    stacked: Any,
    selected: Sequence[int],
    within: range | None = None,
) -> tuple[Any, Any]:
    """Scans over the leading axis of `stacked` (layers, denoise steps), telling the body which entries are selected.

    Args:
        body: `body(carry, entry, slot)` returns the next carry and an output; `slot` counts the selected entries and is
            None for the others.
        carry: what the body hands from entry to entry.
        stacked: a pytree of arrays with one leading axis.
        selected: ascending entries.
        within: the entries to go over; all of them unless given. Slots count from the first of all that are selected.

    Returns:
        The last carry and the outputs of these entries, stacked; None where there is no entry.
    """
    length = jax.tree.leaves(stacked)[0].shape[0]
    within = range(length) if within is None else within
    outputs, slot = [], sum(entry < within.start for entry in selected)
    for first, last, tapped in _runs(within, selected):
        entries = jnp.arange(first, last)
        slots = entries - first + slot if tapped else None
        if (first, last) == (0, length):
            carry, out = jax.lax.scan(lambda c, xs: body(c, *xs), carry, (stacked, slots))
        else:
            # a slice of the stack would copy the weights; an index into it does not
            carry, out = jax.lax.scan(lambda c, xs: body(c, _entry(stacked, xs[0]), xs[1]), carry, (entries, slots))
        outputs.append(out)
        slot += last - first if tapped else 0
    return carry, _join(outputs)


def _join(parts: Sequence[Any]) -> Any:
    """Concatenates equal pytrees along their leading axis; None where there are none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _entry(stacked: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)


def _runs(within: range, selected: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Cuts a range into maximal runs (first, last, whether selected), `last` exclusive."""
    runs = []
    for tapped, group in itertools.groupby(within, key=lambda i: i in selected):
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
    counts = jnp.sum(weights, axis=1).reshape(-1, *(1,) * (tokens.ndim - 2))
    return jnp.einsum("Bn,Bn...->B...", weights, tokens.astype(jnp.float32)) / counts


def _last(tokens: Float[Array, "B n ..."], valid: Bool[Array, "B n"]) -> Float[Array, "B ..."]:
    """The last valid token; NaN where there is none."""
    n = valid.shape[1]
    index = jnp.max(jnp.where(valid, jnp.arange(n), -1), axis=1)
    rank = (slice(None), *(None,) * (tokens.ndim - 1))
    last = jnp.take_along_axis(tokens, jnp.maximum(index, 0)[rank], axis=1)[:, 0]
    return jnp.where((index < 0)[rank[:-1]], jnp.nan, last)
