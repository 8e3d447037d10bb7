"""Boxes: rectangular parts of an array, one slice with a start and a stop for each axis.

A box is how a part of a parameter is named where parameters are too large to be read whole.
"""

from __future__ import annotations

import itertools
import math

Box = tuple[slice, ...]


def grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[Box]:
    """The boxes that chunks of a shape cut an array into, in C order; none where the array is empty."""
    steps = [range(0, size, step) for size, step in zip(shape, chunk, strict=True)]
    return [
        tuple(
            slice(start, min(start + step, size)) for start, step, size in zip(corner, chunk, shape, strict=True)
        )
        for corner in itertools.product(*steps)
    ]  # fmt: skip


def common(one: Box, other: Box) -> Box | None:
    """What two boxes of one array share; None where they do not overlap."""
    both = tuple(slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(one, other, strict=True))
    return both if all(axis.start < axis.stop for axis in both) else None


def inside(box: Box, outer: Box) -> Box:
    """Where `box` lies in the array that was read of `outer`, which holds all of it."""
    return tuple(slice(p.start - q.start, p.stop - q.start) for p, q in zip(box, outer, strict=True))


def elements(box: Box) -> int:
    """How many elements a box has."""
    return math.prod(axis.stop - axis.start for axis in box)
