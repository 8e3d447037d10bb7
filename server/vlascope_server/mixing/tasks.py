"""Task arithmetic: what fine-tuning changed, as vectors that can be scaled, merged and added to the weights they started from.

B is the base, t_k = A_k - B the task vector of checkpoint k, s_k its scale.

Sources:
    sum: B + Σ s_k t_k. Ilharco et al. 2023, "Editing Models with Task Arithmetic", section 2.
    ties: trim, elect a sign, merge disjointly. Yadav et al. 2023, "TIES-Merging", algorithm 1.
    dare: drop values with probability p, scale the others by 1 / (1 - p). Yu et al. 2024, "Language Models are Super Mario",
        section 3.2; the sparse vectors are then added as in task arithmetic.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from vlascope_server.mixing.weighting import blocks

_BITS = 16
"""A float32 magnitude is found in two passes of so many bits each."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """How task vectors become one.

    Attributes:
        combine: `sum`, `ties` or `dare`.
        scales: one of each checkpoint.
        kept: share of each vector's values that is kept.
        thresholds: of `ties`: the smallest magnitude that is kept of each vector.
        seed: of what `dare` drops.
    """

    combine: Literal["sum", "ties", "dare"]
    scales: tuple[float, ...]
    kept: float
    thresholds: tuple[float, ...] = ()
    seed: int = 0

    def applied(self, name: str, base: np.ndarray, tuned: Sequence[np.ndarray]) -> np.ndarray:
        """The merged parameter `name`, in the base's dtype; everything is computed in float32.

        Args:
            name: decides with the seed what `dare` drops, however the parameter is read.
            base: of the base.
            tuned: of the checkpoints.
        """
        result = np.empty_like(base)
        scales = [np.float32(scale) for scale in self.scales]
        draws = [np.random.default_rng([self.seed, k, zlib.crc32(name.encode())]) for k in range(len(tuned))]
        for rows in blocks(base.shape):
            begun = base[rows].astype(np.float32)
            vectors = [array[rows].astype(np.float32) - begun for array in tuned]
            if self.combine == "ties":
                change = scales[0] * _disjoint_mean(
                    [np.where(np.abs(v) >= t, v, 0) for v, t in zip(vectors, self.thresholds, strict=True)]
                )
            else:
                if self.combine == "dare":
                    vectors = [
                        np.where(draw.random(v.shape, np.float32) < self.kept, v / np.float32(self.kept), 0)
                        for draw, v in zip(draws, vectors, strict=True)
                    ]
                change = sum((s * v for s, v in zip(scales, vectors, strict=True)), np.float32(0))
            result[rows] = (begun + change).astype(result.dtype)
        return result


def _disjoint_mean(vectors: Sequence[Float[np.ndarray, "*d"]]) -> Float[np.ndarray, "*d"]:
    """For each value, the mean over the vectors whose sign is that of their sum; 0 where none has one."""
    stacked = np.stack(vectors)
    sign = np.sign(stacked.sum(axis=0))
    agree = (np.sign(stacked) == sign) & (stacked != 0)
    return np.where(agree, stacked, 0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1).astype(np.float32)


def magnitude_above(vectors: Callable[[], Iterable[np.ndarray]], share: float) -> float:
    """The smallest magnitude among the largest `share` of all values; those equal to it are kept too.

    It is exact, and holds two histograms: the bits of a positive float32 order it as a whole number does.

    Args:
        vectors: gives all values, in parts; is asked twice.
        share: above 0 and at most 1. At least one value is kept.
    """
    if share >= 1:
        return 0.0
    high = np.zeros(1 << _BITS, np.int64)
    for part in vectors():
        high += np.bincount(_bits(part) >> _BITS, minlength=len(high))
    wanted = max(1, round(share * int(high.sum())))
    upper, left = _nth_from_above(high, wanted)
    low = np.zeros(1 << _BITS, np.int64)
    for part in vectors():
        bits = _bits(part)
        low += np.bincount(bits[bits >> _BITS == upper] & ((1 << _BITS) - 1), minlength=len(low))
    lower, _ = _nth_from_above(low, left)
    return float(np.array(upper << _BITS | lower, np.uint32).view(np.float32))


def _nth_from_above(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """The bin that holds the entry `wanted` from above, counted from 1, and which one of the bin's it is."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, wanted))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, wanted - before


def _bits(part: np.ndarray) -> np.ndarray:
    return np.abs(np.ascontiguousarray(part, np.float32)).reshape(-1).view(np.uint32).astype(np.int64)
