"""Counts how many bytes of their storages tensors hold, each byte once, at the first tensor that has it.

A tensor is a run of bytes that is repeated along axes: three column chunks of one matrix are three tensors whose first and last
bytes lie almost as far apart as the matrix is long, and no two of them share a value. What is counted is therefore the bytes
themselves, never the distance between the first and the last of them.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.tensors import TorchTensor

_MOST_VISITS = 1 << 29
"""Steps of the exact count, of all storages together: some seconds. Checkpoints as people write them take thousands."""


@dataclasses.dataclass(frozen=True)
class Region:
    """The bytes of a tensor in its storage.

    Attributes:
        start: first byte.
        run: bytes that follow each other.
        axes: how often the run is repeated, and how many bytes apart, by ascending distance; empty for one run.
    """

    start: int
    run: int
    axes: tuple[tuple[int, int], ...] = ()

    @property
    def stop(self) -> int:
        """The byte behind the last one."""
        return self.start + self.run + sum((size - 1) * stride for size, stride in self.axes)

    @property
    def disjoint(self) -> bool:
        """Whether no byte is there twice, which can be told by the strides; some others are not there twice either."""
        extent = self.run
        for size, stride in self.axes:
            if stride < extent:
                return False
            extent += (size - 1) * stride
        return True


def region(tensor: TorchTensor) -> Region:
    """The bytes of a tensor that has elements; a matrix and its transpose have equal regions."""
    itemsize = tensor.itemsize
    run, axes = itemsize, list[tuple[int, int]]()
    pairs = zip(tensor.strides, tensor.shape, strict=True)
    for stride, size in sorted((stride * itemsize, size) for stride, size in pairs if stride and size > 1):
        if not axes and stride <= run:
            run += (size - 1) * stride
        elif axes and stride == axes[-1][0] * axes[-1][1]:
            axes[-1] = (axes[-1][0] * size, axes[-1][1])
        else:
            axes.append((size, stride))
    return Region(tensor.offset * itemsize, run, tuple(axes))


def new_bytes(regions: Mapping[str, tuple[str, Region]]) -> dict[str, int]:
    """Name -> how many of its bytes no name before it has.

    Args:
        regions: name -> the key of its storage, and its region there; in the order in which they are counted.

    Raises:
        TorchCheckpointError: regions overlap in a way that would take very long to count; no such tensors come of training.
    """
    storages: dict[str, list[tuple[str, Region]]] = {}
    for name, (key, found) in regions.items():
        storages.setdefault(key, []).append((name, found))
    counted: dict[str, int] = {}
    left = _MOST_VISITS
    for members in storages.values():
        distinct = {found for _, found in members}
        if not any(found.axes for found in distinct):
            runs = Covered()
            counted |= {name: runs.add(found.start, found.stop) for name, found in members}
        elif len(distinct) == 1 and (only := members[0][1]).disjoint:
            counted |= dict.fromkeys((name for name, _ in members), 0)
            counted[members[0][0]] = only.run * math.prod(size for size, _ in only.axes)
        else:
            left = _count_marked(members, counted, left)
    return counted


def _count_marked(members: list[tuple[str, Region]], counted: dict[str, int], left: int) -> int:
    """Counts one storage by marking what was seen, in units of as many bytes as divide all places; returns visits left."""
    unit = math.gcd(*(n for _, r in members for n in (r.start, r.run, *(stride for _, stride in r.axes))))
    length = max(found.stop for _, found in members) // unit
    distinct = {found for _, found in members}
    left -= length + sum(
        math.prod(size for size, _ in r.axes) * (r.run // unit) + (0 if r.disjoint else 2 * (r.stop - r.start) // unit)
        for r in distinct
    )
    if left < 0:
        raise TorchCheckpointError(
            f"tensor {members[0][0][:80]}: {len(members):,} tensors overlap in its storage in a way that is too dear to"
            " count; expected views as training code makes them: save them contiguous, each with a storage of its own"
        )
    seen = np.zeros(length, bool)
    for name, found in members:
        if found not in distinct:
            counted[name] = 0
            continue
        distinct.remove(found)
        view = np.lib.stride_tricks.as_strided(
            seen[found.start // unit :],
            (*(size for size, _ in reversed(found.axes)), found.run // unit),
            (*(stride // unit for _, stride in reversed(found.axes)), 1),
        )
        if found.disjoint:
            new = view.size - np.count_nonzero(view)
            view[...] = True
        else:
            around = seen[found.start // unit : found.stop // unit]
            before = np.count_nonzero(around)
            view[...] = True
            new = np.count_nonzero(around) - before
        counted[name] = int(new) * unit
    return left


class Covered:
    """Which bytes of a storage some tensor has had already: runs in order, none of which touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> int:
        """Adds a run; returns how many of its bytes are new."""
        first = bisect.bisect_left(self._stops, start)
        last = bisect.bisect_right(self._starts, stop)
        before = sum(
            min(stop, b) - max(start, a) for a, b in zip(self._starts[first:last], self._stops[first:last], strict=True)
        )
        if first < last:
            low, high = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        else:
            low, high = start, stop
        self._starts[first:last], self._stops[first:last] = [low], [high]
        return stop - start - before
