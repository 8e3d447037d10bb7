"""The places inside a program at which values are kept: a block calls `site(name, value)` and goes on with what it returns.

Kept values are written in place into arrays of the plan's shapes, which the loops over layers and steps carry along. The loops
are scans, cut where the selection changes: what is not selected runs the plain body, so that it is neither reduced, converted
nor copied.

While a program is traced, an `ExpertSites` holds the arrays as they are at its place in the loops, and a scan hands them into
its body and out again; nothing of it is left in the compiled program, and from outside a scan is a pure function.

B batch, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from vlascope_latents import CapturePlan, SitePlan, TokenGroup

_bitcast = jax.lax.bitcast_convert_type

Latents = dict[str, jax.Array]
"""`<expert>/<component>` -> captured array: the batch, then the axes of the plan's tensor."""
Axis = Literal["steps", "layers"]
"""What a scan goes over: fields of a `SitePlan`."""


@runtime_checkable
class Site(Protocol):
    """What a block calls at each of its sites."""

    @property
    def names(self) -> Collection[str]:
        """The components that anything is done with here."""
        ...

    @property
    def edits(self) -> Collection[str]:
        """Those of them of which another value may come back."""
        ...

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """The value with which the block goes on: keeps it, changes it, both or neither."""
        ...


def fence(value: jax.Array) -> jax.Array:
    """Marks a value that can be captured, whether it is or not.

    The compiler may not fuse across it, so that the arithmetic around it is the same in every program, and capture
    cannot move the actions by a rounding.
    """
    return jax.lax.optimization_barrier(value)


class Sites:
    """Every site of one program, outside of its loops."""

    def __init__(self, plan: CapturePlan | None, batch_size: int):
        """Arrays for everything that the plan captures; None captures nothing.

        Until `finished`, bfloat16 is kept as its bits: on a CPU, XLA writes uint16 into an array 15 times faster than bfloat16.
        """
        self._plans = plan.sites if plan else ()
        dtypes = {"bfloat16": jnp.uint16, "float32": jnp.float32, "int32": jnp.int32}
        self._kept: Latents = {
            site.path: jnp.zeros((batch_size, *site.tensor.shape), dtypes[site.tensor.dtype]) for site in self._plans
        }

    def expert(self, name: str, valid: Bool[Array, "B T"]) -> ExpertSites:
        """The sites of one expert; reductions see only the tokens that are `valid`."""
        return ExpertSites({p.path: p for p in self._plans if p.expert == name}, valid, self._kept, {})

    def finished(self) -> Latents:
        """The captured arrays in the dtypes of the plan."""
        return {path: _bitcast(a, jnp.bfloat16) if a.dtype == jnp.uint16 else a for path, a in self._kept.items()}


class ExpertSites:
    """The sites of one expert at one place of its loops; a `Site`."""

    def __init__(
        self,
        plans: Mapping[str, SitePlan],
        valid: Bool[Array, "B T"],
        kept: Latents,
        places: Mapping[str, tuple[jax.Array | int, ...]],
    ):
        """A part of `Sites`, or of another place.

        Args:
            plans: of the sites that are selected here, by path.
            valid: which tokens are real.
            kept: the arrays as they are here; written to.
            places: by path, where a value belongs along the array's leading axes so far: steps, then layers.
        """
        self._plans, self._valid, self._kept, self._places = plans, valid, kept, places

    @property
    def names(self) -> Collection[str]:
        """The components that are kept here."""
        return {plan.component for plan in self._plans.values()}

    @property
    def edits(self) -> Collection[str]:
        """None: what is kept is not changed."""
        return ()

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Keeps [B, ...] where it is selected, and returns it with the compiler's fence around it.

        Attention has no fence: writing all of its probabilities out would cost more than reducing them, and no action is
        computed from what is kept of them.
        """
        if name != "attention":
            value = fence(value)
        for path, plan in self._plans.items():
            if plan.component == name:
                place = self._places.get(path, ())
                self._kept[path] = _written(self._kept[path], select(plan, value, self._valid), place)
        return value

    def at(self, axis: Axis, entry: int) -> ExpertSites:
        """The sites at one entry of a loop that is no scan."""
        active = self._active(axis, entry)
        places = {
            path: (*self._places.get(path, ()), sum(n < entry for n in getattr(plan, axis)))
            for path, plan in active.items()
        }
        return self._inside(active, self._kept, places)

    def scan(
        self,
        axis: Axis,
        body: Callable[[Any, Any, ExpertSites], tuple[Any, Any]],
        carry: Any,
        stacked: Any,
        *,
        within: range | None = None,
        remat: bool = False,
    ) -> tuple[Any, Any]:
        """Scans over the leading axis of `stacked` (layers, denoise steps), handing the body the sites of each entry.

        Args:
            axis: what the entries are.
            body: `body(carry, entry, site)` returns the next carry and an output.
            carry: what the body hands from entry to entry.
            stacked: a pytree of arrays with one leading axis.
            within: the entries to go over; all of them unless given.
            remat: compute an entry's activations again in the backward pass instead of keeping them.

        Returns:
            The last carry and the outputs of these entries, stacked; None where there is no entry.
        """
        length = jax.tree.leaves(stacked)[0].shape[0]
        outputs = []
        for first, last in self._runs(axis, range(length) if within is None else within):
            active = self._active(axis, first)
            before = {path: sum(n < first for n in getattr(plan, axis)) for path, plan in active.items()}

            # bound now: the loop goes on before JAX may trace it again
            def step(state, entry, number, active=active, before=before, first=first):
                inner, kept = state
                kept = dict(kept)
                places = {p: (*self._places.get(p, ()), number - first + n) for p, n in before.items()}
                inner, out = body(inner, entry, self._inside(active, kept, places))
                return (inner, kept), out

            step = jax.checkpoint(step) if remat else step
            # what is not written here stays outside of the loop
            state = carry, {path: self._kept[path] for path in active}
            numbers = jnp.arange(first, last)
            if (first, last) == (0, length):
                xs = (stacked, numbers if active else None)
                state, out = jax.lax.scan(lambda c, xs, step=step: step(c, *xs), state, xs)
            else:
                # a slice of the stack would copy the weights; an index into it does not
                state, out = jax.lax.scan(lambda c, n, step=step: step(c, _entry(stacked, n), n), state, numbers)
            carry, kept = state
            self._kept.update(kept)
            outputs.append(out)
        return carry, _join(outputs)

    def _inside(
        self, plans: Mapping[str, SitePlan], kept: Latents, places: Mapping[str, tuple[jax.Array | int, ...]]
    ) -> ExpertSites:
        """The same at another place of the loops."""
        return ExpertSites(plans, self._valid, kept, places)

    def _active(self, axis: Axis, entry: int) -> dict[str, SitePlan]:
        return {path: plan for path, plan in self._plans.items() if entry in getattr(plan, axis)}

    def _runs(self, axis: Axis, within: range) -> Iterator[tuple[int, int]]:
        """Cuts a range into maximal runs (first, last), `last` exclusive, in which the same sites are selected."""
        for _, group in itertools.groupby(within, key=lambda entry: frozenset(self._active(axis, entry))):
            entries = list(group)
            yield entries[0], entries[-1] + 1


def select(plan: SitePlan, value: jax.Array, valid: Bool[Array, "B T"]) -> jax.Array:
    """What a site keeps of a value [B, T, ...], of attention [B, N, T, S]: heads, tokens and keys, selected or reduced.

    Reduced attention is the share that goes to the keys of a span, over the valid queries of another one.
    """
    if not plan.groups:
        return value
    if not plan.keys:
        return _selected(plan, value, valid)
    if len(plan.heads) < value.shape[1]:
        value = value[:, np.array(plan.heads)]
    keys = [_ranges(value, group, axis=3) for group in plan.keys]
    value = keys[0] if plan.reduction == "none" else jnp.stack([jnp.sum(part, axis=3) for part in keys], axis=3)
    return jnp.moveaxis(_selected(plan, jnp.moveaxis(value, 2, 1), valid), 1, 2)


def _selected(plan: SitePlan, value: jax.Array, valid: Bool[Array, "B T"]) -> jax.Array:
    """The tokens of a value [B, T, ...]; NaN where a prompt is too short, or nothing in a span is valid."""
    if plan.reduction == "none":
        (group,) = plan.groups
        tokens, real = _tokens(value, valid, group, plan.prompt)
        if not group.ends:
            return tokens
        missing = jnp.arange(tokens.shape[1]) >= tokens.shape[1] - len(group.ends)
        missing = (missing[None] & ~real).reshape(*real.shape, *(1,) * (tokens.ndim - 2))
        return jnp.where(missing, jnp.asarray(jnp.nan, tokens.dtype), tokens)
    reduce = {"mean": _mean, "last": _last}[plan.reduction]
    return jnp.stack([reduce(*_tokens(value, valid, group, plan.prompt)) for group in plan.groups], axis=1)


def _written(array: jax.Array, value: jax.Array, place: tuple[jax.Array | int, ...]) -> jax.Array:
    """The array with a value [B, ...] at its place, the axes behind the batch."""
    bits = array.dtype == jnp.uint16
    value = _bitcast(value.astype(jnp.bfloat16), jnp.uint16) if bits else value.astype(array.dtype)
    update = jnp.expand_dims(value, tuple(range(1, len(place) + 1)))
    return jax.lax.dynamic_update_slice(array, update, (0, *place, *(0,) * (value.ndim - 1)))


def _join(parts: list[Any]) -> Any:
    """Concatenates equal pytrees along their leading axis; None where there are none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _entry(stacked: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)


def _tokens(
    value: jax.Array, valid: Bool[Array, "B T"], group: TokenGroup, prompt: tuple[int, int] | None
) -> tuple[jax.Array, Bool[Array, "B n"]]:
    """The group's tokens of a value [B, T, ...], and which of them are real."""
    if not group.ends or prompt is None:
        return _ranges(value, group, axis=1), _ranges(valid, group, axis=1)
    inside = valid[:, slice(*prompt)]
    # counted from the end: 1 is the last real token
    count = jnp.cumsum(inside[:, ::-1], axis=1)[:, ::-1]
    hit = (count[:, None] == -jnp.array(group.ends)[None, :, None]) & inside[:, None]
    index = prompt[0] + jnp.argmax(hit, axis=2)
    counted = jnp.take_along_axis(value, index.reshape(*index.shape, *(1,) * (value.ndim - 2)), axis=1)
    real = jnp.any(hit, axis=2)
    if not group.ranges:
        return counted, real
    parts = (_ranges(value, group, axis=1), counted), (_ranges(valid, group, axis=1), real)
    tokens, real = (jnp.concatenate(part, axis=1) for part in parts)
    return tokens, real


def _ranges(array: jax.Array, group: TokenGroup, axis: int) -> jax.Array:
    """The group's ranges along an axis."""
    if group.ranges == ((0, array.shape[axis]),):
        return array
    parts = [jax.lax.slice_in_dim(array, start, stop, axis=axis) for start, stop in group.ranges]
    return jnp.concatenate(parts, axis=axis)


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
