"""What is summed over two arrays to compare them, and the metrics that follow from the sums.

Sums of parts add up to those of the whole, so that a parameter need not be held to be compared. Everything is computed and
added in float64, from values as they are stored.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Iterator

import numpy as np

_BLOCK = 1 << 15
"""Elements looked at together: a quarter of a megabyte of float64, which stays in a core's cache."""
_ROW = 1 << 13
"""Elements that are multiplied together."""


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over pairs of values, a of one array and b of the other; d is a - b.

    Values that are NaN or infinite on either side are counted, and left out of everything else.

    Attributes:
        count: pairs that are finite on both sides.
        changed: those of them that differ.
        nan_a, nan_b: values that are NaN.
        inf_a, inf_b: values that are infinite.
        aa, bb, ab, dd: sums of a a, b b, a b and d d.
        absolute: sum of |d|.
        largest: the largest |d|; 0 of nothing.
        spread: sum of the squared deviations of |d| from its mean.
    """

    count: int = 0
    changed: int = 0
    nan_a: int = 0
    nan_b: int = 0
    inf_a: int = 0
    inf_b: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0
    spread: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        """The sums over both."""
        if not self.count or not other.count:
            between = 0.0
        else:
            # the deviations of two parts from their common mean (Chan, Golub and LeVeque 1983)
            share = self.count * other.count / (self.count + other.count)
            between = (self.mean_abs - other.mean_abs) ** 2 * share
        return Sums(
            count=self.count + other.count,
            changed=self.changed + other.changed,
            nan_a=self.nan_a + other.nan_a,
            nan_b=self.nan_b + other.nan_b,
            inf_a=self.inf_a + other.inf_a,
            inf_b=self.inf_b + other.inf_b,
            aa=self.aa + other.aa,
            bb=self.bb + other.bb,
            ab=self.ab + other.ab,
            dd=self.dd + other.dd,
            absolute=self.absolute + other.absolute,
            largest=max(self.largest, other.largest),
            spread=self.spread + other.spread + between,
        )

    @property
    def l2(self) -> float:
        """The Euclidean distance."""
        return math.sqrt(self.dd)

    @property
    def l1(self) -> float:
        """The sum of absolute differences."""
        return self.absolute

    @property
    def cosine(self) -> float:
        """The cosine of the angle between both: 1 where nothing differs, NaN where one is zero throughout and the other not."""
        if not self.dd:
            return 1.0
        norms = math.sqrt(self.aa) * math.sqrt(self.bb)
        return max(-1.0, min(1.0, self.ab / norms)) if norms else math.nan

    @property
    def relative(self) -> float:
        """The Euclidean distance over the mean of both norms: 0 where nothing differs, at most 2."""
        return self.l2 / ((math.sqrt(self.aa) + math.sqrt(self.bb)) / 2) if self.dd else 0.0

    @property
    def mean_abs(self) -> float:
        """The mean absolute difference; 0 of nothing."""
        return self.absolute / self.count if self.count else 0.0

    @property
    def std_abs(self) -> float:
        """The standard deviation of absolute differences, over all values; 0 of nothing."""
        return math.sqrt(self.spread / self.count) if self.count else 0.0

    @property
    def not_finite(self) -> int:
        """Values that are NaN or infinite, of both sides."""
        return self.nan_a + self.nan_b + self.inf_a + self.inf_b

    def metrics(self) -> dict[str, float]:
        """The seven metrics by the names that results have for them."""
        return {
            "l2_norm": self.l2,
            "l1_norm": self.l1,
            "cosine_similarity": self.cosine,
            "relative_difference": self.relative,
            "max_abs_diff": self.largest,
            "mean_abs_diff": self.mean_abs,
            "std_abs_diff": self.std_abs,
        }


def total(parts: Iterable[Sums]) -> Sums:
    """The sums over all parts, added in their order."""
    return functools.reduce(operator.add, parts, Sums())


def measure(a: np.ndarray, b: np.ndarray) -> Sums:
    """Compares two arrays of one shape, of any dtypes and orders in memory; holds a megabyte besides them."""
    order, other = (sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis])) for x in (a, b))
    a, b = a.transpose(order), b.transpose(order)  # as `a` lies in memory
    # made once: to allocate such arrays anew takes longer than all that is computed with them
    room = np.empty((3, min(_BLOCK, a.size)))
    return total(_block(x, y, room) for x, y in _blocks(a, b, alike=order == other))


def _blocks(a: np.ndarray, b: np.ndarray, *, alike: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both in parts of at most `_BLOCK` elements.

    Args:
        a, b: of one shape.
        alike: the axes of both lie in memory in one order. If not, parts are about square: a cache line of either is used
            for as many elements as it holds.
    """
    if not a.size:
        return
    if a.size <= _BLOCK:
        yield a, b
        return
    axis = next(k for k, size in enumerate(a.shape) if size > 1) if alike else int(np.argmax(a.shape))
    size = a.shape[axis]
    step = max(1, _BLOCK * size // a.size) if alike else size // 2
    for start in range(0, size, step):
        part = (*[slice(None)] * axis, slice(start, start + step))
        yield from _blocks(a[part], b[part], alike=alike)


def _block(a: np.ndarray, b: np.ndarray, room: np.ndarray) -> Sums:
    x, y, d = room[:, : a.size]
    np.copyto(x.reshape(a.shape), a)
    np.copyto(y.reshape(b.shape), b)
    aa, bb = _dot(x, x), _dot(y, y)
    bad = {}
    if not math.isfinite(aa + bb):
        bad = {
            "nan_a": int(np.isnan(x).sum()), "nan_b": int(np.isnan(y).sum()),
            "inf_a": int(np.isinf(x).sum()), "inf_b": int(np.isinf(y).sum()),
        }  # fmt: skip
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = x[finite], y[finite]
        if not x.size:
            return Sums(**bad)
        d, aa, bb = d[: x.size], _dot(x, x), _dot(y, y)
    np.subtract(x, y, out=d)
    np.abs(d, out=d)
    dd, absolute, largest, changed = _dot(d, d), float(d.sum()), float(d.max()), int(np.count_nonzero(d > 0))
    d -= absolute / d.size
    return Sums(
        count=d.size, changed=changed, aa=aa, bb=bb, ab=_dot(x, y), dd=dd, absolute=absolute, largest=largest,
        spread=_dot(d, d), **bad,
    )  # fmt: skip


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """In rows so short that BLAS starts no threads, which would get into the way of ours."""
    return math.fsum(float(x[k : k + _ROW] @ y[k : k + _ROW]) for k in range(0, x.size, _ROW))
