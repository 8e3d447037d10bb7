"""Which weight each part of each parameter gets, and sums with these weights.

K checkpoints, G groups of parameters with weights of their own, L layers of a stacked parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from vlascope_server.checkpoints.summary import is_layered, place
from vlascope_server.options import COMPONENTS

_BLOCK = 1 << 22
"""Elements that are summed together: the float32 copies of so many fit a processor's cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Parts of the model with weights of their own.

    Attributes:
        names: of the groups.
        rows: parameter -> its group; of a parameter whose layers have weights of their own, that of each layer.
    """

    names: tuple[str, ...]
    rows: dict[str, int | tuple[int, ...]]

    @classmethod
    def of(cls, shapes: dict[str, tuple[int, ...]], by: Literal["checkpoint", "component", "layer"]) -> Groups:
        """The groups of parameters of these shapes.

        Args:
            shapes: flat name -> shape, of the parameters that are mixed.
            by: `checkpoint` makes one group; `component` four; `layer` one for each layer of a component that has layers, and
                one for what the component has beside them.
        """
        if by == "checkpoint":
            return cls(("all parameters",), dict.fromkeys(shapes, 0))
        if by == "component":
            # all four, whether anything of them differs or not: weights that are given count on it
            return cls(COMPONENTS, {name: COMPONENTS.index(place(name)[0]) for name in shapes})
        keys = dict.fromkeys(key for name in sorted(shapes) for key in _keys(name, shapes[name]))
        names = tuple(sorted(keys, key=lambda key: (COMPONENTS.index(key[0]), key[1])))
        number = {key: k for k, key in enumerate(names)}
        rows: dict[str, int | tuple[int, ...]] = {}
        for name, shape in shapes.items():
            found = tuple(number[key] for key in _keys(name, shape))
            rows[name] = found if is_layered(name) else found[0]
        return cls(tuple(part if k < 0 else f"{part}, layer {k}" for part, k in names), rows)

    def weights_of(self, name: str, weights: Float[np.ndarray, "G K"]) -> Float[np.ndarray, "*L K"]:
        """The weights of a parameter: K numbers, or K of each layer."""
        return weights[np.asarray(self.rows[name])]


def _keys(name: str, shape: tuple[int, ...]) -> Iterable[tuple[str, int]]:
    """Component and layer, -1 beside the layers."""
    layers = range(shape[0]) if is_layered(name) else (-1,)
    return [(place(name)[0], layer) for layer in layers]


def weighted_sum(
    arrays: Sequence[np.ndarray], weights: Float[np.ndarray, "*L K"], dtype: np.dtype | None = None
) -> np.ndarray:
    """The sum of K arrays times their weights, added in float32.

    Args:
        arrays: of one shape.
        weights: K of them, or K of each entry of the first axis.
        dtype: of the result; that of the first array unless given.
    """
    first = arrays[0]
    result = np.empty(first.shape, dtype or first.dtype)
    by_layer = weights.ndim == 2
    for rows in blocks(first.shape):
        total = np.zeros((), np.float32)
        for k, array in enumerate(arrays):
            factor = weights[rows, k] if by_layer else weights[k]
            factor = (
                np.asarray(factor, np.float32).reshape(-1, *(1,) * (first.ndim - 1)) if by_layer else np.float32(factor)
            )
            total = total + factor * array[rows].astype(np.float32)
        result[rows] = total.astype(result.dtype)
    return result


def blocks(shape: tuple[int, ...]) -> list[slice | tuple[()]]:
    """Rows of the first axis that are taken together, so that float32 copies stay small."""
    if not shape:
        return [()]
    step = max(1, _BLOCK * shape[0] // max(1, int(np.prod(shape, dtype=np.int64))))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
