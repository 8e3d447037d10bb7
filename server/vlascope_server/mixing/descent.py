"""Weights by gradient descent on the loss of the mix.

The weights of each group are the softmax of as many logits, and the mix is their sum θ = Σ w_k θ_k. One backward pass gives
g = dL/dθ; the gradient in the weights is then dL/dw_k = <g, θ_k>, so that no second pass through the model is needed however
many checkpoints there are. As the weights of a group sum to 1, θ_k - θ_0 takes the place of θ_k: the gradient in the logits is
the same, and what is common to all checkpoints, which is large, does not have to cancel in float32.

K checkpoints, G groups.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from vlascope_base.progress import Progress, silent

from vlascope_server.mixing.device import OnDevice, Theirs, spread_weights, sums
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.losses import Losses
from vlascope_server.mixing.weighting import Groups
from vlascope_server.model import Params
from vlascope_server.training.loader import Batch, rows_of_step

LossOf = Callable[[Params, Any, Array], Float[Array, ""]]
_ORDER = 7
"""Tells the seed of the order of frames from others that are made of the same number."""


@dataclasses.dataclass(frozen=True)
class Descent:
    """How weights are looked for.

    Attributes:
        iterations: steps.
        rate: Adam's learning rate at first; it falls to 0 as a cosine.
        adaptive: what Adam makes of a gradient is scaled by the current loss over the first one. Scaling the gradient before
            Adam would do next to nothing: Adam divides by the gradient's own size.
        batch_size: frames in one step.
        seed: of the order of frames.
    """

    iterations: int
    rate: float
    adaptive: bool
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One step: the loss on its frames before it, and the weights before it."""

    loss: float
    weights: Float[np.ndarray, "G K"]


def descend(
    policies: OnDevice, groups: Groups, losses: Losses, descent: Descent, progress: Progress = silent
) -> tuple[Float[np.ndarray, "G K"], list[Step]]:
    """Finds weights, beginning with the average.

    Args:
        policies: the checkpoints.
        groups: what has weights of its own.
        losses: the objective, on the selection episodes of its data.
        descent: how.
        progress: is told how many steps were taken.

    Returns:
        The weights after the last step, and every step.

    Raises:
        MixingError: a loss is not finite.
    """
    logits = jnp.zeros((len(groups.names), len(policies.theirs)), jnp.float32)
    adam, iteration = _compiled(losses, groups)
    state = adam.init(logits)
    rows = losses.rows("selection")
    size = min(descent.batch_size, len(rows))
    first, steps = 0.0, []
    for number in range(descent.iterations):
        progress("gradient descent", number, descent.iterations)
        some = rows[rows_of_step(np.arange(len(rows)), number, size, descent.seed + _ORDER)]
        rate = descent.rate * 0.5 * (1 + np.cos(np.pi * number / descent.iterations))
        before = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
        batch, keys = losses.batch(some), losses.keys(some, turn=number + 1)
        logits, state, found = iteration(logits, state, policies.theirs, policies.shared, batch, keys, rate, first)
        loss = float(found)
        if not np.isfinite(loss):
            raise MixingError(f"gradient_descent: the loss is {loss} after {number} steps; are the checkpoints whole?")
        if descent.adaptive and not first:
            first = loss
        steps.append(Step(loss, before))
    progress("gradient descent", descent.iterations, descent.iterations)
    return np.asarray(jax.nn.softmax(logits, axis=-1), np.float64), steps


@functools.lru_cache(maxsize=1)
def _compiled(losses: Losses, groups: Groups):
    """Adam, and one step with it, compiled once for both kinds of descent."""
    adam = optax.scale_by_adam()

    def iterate(
        logits: Float[Array, "G K"],
        state: PyTree,
        theirs: Theirs,
        shared: Params,
        batch: Batch,
        keys: Array,
        rate: Array,
        first: Array,
    ) -> tuple[Float[Array, "G K"], PyTree, Float[Array, ""]]:
        """Logits, Adam's state, and the loss before the step; above 0, `first` scales the step by the loss over it."""
        loss, gradient = logits_gradient(losses.mean, groups, logits, theirs, shared, batch, keys)
        with jax.numpy_dtype_promotion("standard"):  # optax takes it for granted
            updates, state = adam.update(gradient, state)
        scale = jnp.where(first > 0, loss / jnp.maximum(first, jnp.finfo(jnp.float32).tiny), 1.0)
        return logits - rate * scale * jnp.asarray(updates), state, loss

    return adam, jax.jit(iterate)


def logits_gradient(
    loss_of: LossOf,
    groups: Groups,
    logits: Float[Array, "G K"],
    theirs: Theirs,
    shared: Params,
    batch: PyTree,
    keys: Array,
) -> tuple[Float[Array, ""], Float[Array, "G K"]]:
    """The loss of the mix, and its gradient in the logits of the weights; `batch` and `keys` are what `loss_of` takes."""
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = sums(theirs, spread_weights(groups, weights))
    loss, gradient = jax.value_and_grad(lambda differing: loss_of({**shared, **differing}, batch, keys))(mixed)
    slopes = weight_gradient(groups, gradient, theirs)
    # through the softmax: w_k (s_k - Σ w_j s_j)
    return loss, weights * (slopes - jnp.sum(weights * slopes, axis=-1, keepdims=True))


def weight_gradient(groups: Groups, gradient: Params, theirs: Theirs) -> Float[Array, "G K"]:
    """<g, θ_k - θ_0> of every group: the gradient in the weights, but for a constant of each group."""
    total = jnp.zeros((len(groups.names), len(theirs)), jnp.float32)
    for name, slope in gradient.items():
        rows = np.asarray(groups.rows[name])
        axes = tuple(range(rows.ndim, slope.ndim))
        begun = theirs[0][name].astype(jnp.float32)
        for k in range(1, len(theirs)):
            products = jnp.sum(slope.astype(jnp.float32) * (theirs[k][name].astype(jnp.float32) - begun), axis=axes)
            total = total.at[rows, k].add(products)
    return total
