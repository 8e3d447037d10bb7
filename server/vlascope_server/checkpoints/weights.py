"""What a checkpoint's file format offers to the rest: names, shapes and dtypes at once, values one parameter at a time.

What the parameters mean is the model's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from vlascope_server.checkpoints.boxes import Box

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""The dtypes that parameters may be loaded or written in; float16 would overflow."""

_SCAN = 1 << 22
"""Elements looked at together when searching for values that are not finite: the copy fits a processor's cache."""
_ALIGNMENT = 64
"""Bytes; XLA's for arrays in host memory."""


@runtime_checkable
class Weights(Protocol):
    """Parameters on disk by the reference's names. Opening reads metadata only.

    `read` reads one parameter, `read_box` a part of one.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Flat name -> shape."""
        ...

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Flat name -> dtype as stored."""
        ...

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """One parameter in `dtype`, or as stored.

        Raises:
            CheckpointError: the data behind it is missing or damaged.
        """
        ...

    def pieces(self, name: str) -> Sequence[Box]:
        """The boxes that the format reads by themselves; together they are the parameter, and none overlap."""
        ...

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """The part `box` of a parameter, which lies in one of its pieces, as it is stored. Threads may read at once.

        Returns:
            an array of the box's shape, perhaps a read-only view of the file.

        Raises:
            CheckpointError: the data behind it is missing or damaged.
        """
        ...

    @property
    def parts_cost_the_whole(self) -> bool:
        """Whether a part of a piece costs as much as all of it, since the piece is compressed."""
        ...


def nbytes(weights: Weights, dtype: str | None = None) -> int:
    """Bytes of all parameters in `dtype`, or as stored."""
    return sum(
        _size(shape) * dtype_of(dtype or weights.dtypes[name]).itemsize for name, shape in weights.shapes.items()
    )


def largest_first(weights: Weights) -> Iterator[str]:
    """Names in the order that needs the least memory: what a format must hold besides a parameter's own bytes is in
    proportion to it, so the big ones come while little else is held.
    """
    yield from sorted(weights.shapes, key=lambda name: (-_size(weights.shapes[name]), name))


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Room for a parameter, at an address where JAX on a CPU takes the array over rather than copying it."""
    wanted = dtype_of(dtype)
    size = _size(shape) * wanted.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(wanted).reshape(shape)


def count_not_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite; `array` float32 or bfloat16."""
    flat = array.reshape(-1)
    return sum(int(np.sum(~np.isfinite(flat[i : i + _SCAN]))) for i in range(0, flat.size, _SCAN))


def dtype_of(name: str) -> np.dtype:
    """The numpy dtype of a stored dtype's name."""
    return DTYPES[name] if name in DTYPES else np.dtype(name)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
