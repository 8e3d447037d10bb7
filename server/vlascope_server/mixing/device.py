"""The parameters of all checkpoints on JAX's device, and their mixes there.

What all checkpoints share is there once; what differs is there once for each, in the dtype of the mix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from vlascope_base.progress import Progress, silent

from vlascope_server.mixing.inputs import Inputs
from vlascope_server.mixing.weighting import Groups

Theirs = tuple[dict[str, jax.Array], ...]
"""Of each checkpoint, the parameters that are not the same in all."""


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """Checkpoints on the device.

    Attributes:
        shared: parameters whose values all checkpoints share, in the dtype of activations.
        theirs: the others, of each checkpoint.
        dtype: of activations: what a served policy's parameters are in.
    """

    shared: dict[str, jax.Array]
    theirs: Theirs
    dtype: str

    @property
    def differing(self) -> dict[str, tuple[int, ...]]:
        """Flat name -> shape of what is mixed."""
        return {name: tuple(array.shape) for name, array in self.theirs[0].items()}

    def checkpoint(self, number: int) -> dict[str, jax.Array]:
        """The parameters of one checkpoint, as it would be served."""
        return self.policy(self.theirs[number])

    def policy(self, differing: Mapping[str, jax.Array | np.ndarray]) -> dict[str, jax.Array]:
        """A whole policy's parameters, as it would be served, from those that differ."""
        return self.shared | {name: jnp.asarray(array).astype(self.dtype) for name, array in differing.items()}

    def mixed(self, groups: Groups, weights: Float[np.ndarray, "G K"]) -> dict[str, jax.Array]:
        """The policy that these weights make, its parameters rounded to the dtype that they will have in a file."""
        spread = spread_weights(groups, jnp.asarray(weights, jnp.float32))
        summed = _rounded_sums(self.theirs, spread)
        return self.policy(summed)


def load(inputs: Inputs, dtype: str, progress: Progress = silent) -> OnDevice:
    """Reads all parameters of all checkpoints, one parameter after the other.

    Args:
        inputs: the checkpoints.
        dtype: of activations.
        progress: is told how many parameters have been read.

    Raises:
        CheckpointError: one of them is damaged.
    """
    shared: dict[str, jax.Array] = {}
    theirs: Theirs = tuple({} for _ in inputs.weights)
    names = inputs.names
    for done, name in enumerate(names):
        progress("reading parameters", done, len(names))
        arrays = inputs.read(name)
        if len(arrays) == 1:
            shared[name] = jax.block_until_ready(jnp.asarray(arrays[0]).astype(dtype))
            continue
        for params, array in zip(theirs, arrays, strict=True):
            params[name] = jax.block_until_ready(jnp.asarray(array))
    progress("reading parameters", len(names), len(names))
    return OnDevice(shared, theirs, dtype)


def spread_weights(groups: Groups, weights: Float[Array, "G K"]) -> dict[str, Float[Array, "*L K"]]:
    """The weights of each parameter: K, or K of each of its layers."""
    return {name: weights[np.asarray(rows)] for name, rows in groups.rows.items()}


def sums(theirs: Theirs, weights: Mapping[str, Float[Array, "*L K"]]) -> dict[str, jax.Array]:
    """Weighted sums of the parameters that differ, in float32."""
    found: dict[str, jax.Array] = {}
    for name, first in theirs[0].items():
        total = jnp.zeros(first.shape, jnp.float32)
        for k, params in enumerate(theirs):
            total = total + _along(weights[name][..., k], first) * params[name].astype(jnp.float32)
        found[name] = total
    return found


def _along(weight: Float[Array, "*L"], value: jax.Array) -> jax.Array:
    """A weight, or one of each layer, in a shape that multiplies the parameter."""
    return weight.reshape(*weight.shape, *(1,) * (value.ndim - weight.ndim))


@jax.jit
def _rounded_sums(theirs: Theirs, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: total.astype(theirs[0][name].dtype) for name, total in sums(theirs, weights).items()}
