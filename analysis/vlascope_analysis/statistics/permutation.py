"""Labels moved among episodes that could as well have had them, and the p-values that follow.

Under the hypothesis that features know nothing of the label, such labels are as likely as the true ones, and so
is whatever a probe makes of them. Episodes change labels only where the design leaves them free: inside the folds,
which were dealt with a view to the labels, and inside scenes and initial states, which features may recognise (Winkler et
al. 2014, 2015: restricted permutation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vlascope_analysis.statistics.splits import Split
from vlascope_analysis.statistics.units import Episodes

LEVEL = 0.05
"""A p-value up to here allows to say that something can be read."""


def permuted_labels(episodes: Episodes, free: Freedom, count: int, seed: int) -> np.ndarray:
    """The true labels and permutations of them.

    Args:
        episodes: whose labels.
        free: where they may move.
        count: how many permutations.
        seed: permutation k depends on it and on k alone.

    Returns:
        int [1 + count, U].
    """
    labels = np.tile(episodes.label, (1 + count, 1))
    movable = free.movable()
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        for own, first, place in movable:
            labels[1 + number, own] = rng.permutation(episodes.label[own][first])[place]
    return labels


def arrangements(episodes: Episodes, free: Freedom) -> float:
    """How many different labellings the permutations can reach, the true one among them; may be infinite."""
    logarithm = 0.0
    for own, first, _ in free.movable():
        counts = np.bincount(episodes.label[own][first])
        logarithm += math.lgamma(counts.sum() + 1) - sum(math.lgamma(count + 1) for count in counts)
    return math.exp(logarithm) if logarithm < 700 else math.inf


@dataclasses.dataclass(frozen=True)
class Freedom:
    """Where labels may move.

    Attributes:
        block: int [U] inside which each episode's label may move.
        moved: int [U] what moves with it as one.
    """

    block: np.ndarray
    moved: np.ndarray

    @classmethod
    def of(cls, episodes: Episodes, units: np.ndarray, splits: Sequence[Split], pools: np.ndarray | None) -> Freedom:
        """Of a design.

        A unit whose episodes all have one class changes labels whole, with others of its fold. Where it has several, its
        episodes change labels inside it. Where answers are asked for among the classes of a scene, no label leaves its scene,
        and what is not tested keeps its own.

        Args:
            episodes: whose labels.
            units: int [U] what looks alike: what the split holds out whole, and where that is scenes, initial states.
            splits: the assignment that serves the test.
            pools: int [U] the scene of each tested episode, -1 for others; None where answers may be any class.
        """
        folds = _blocks(splits)
        apart = np.arange(len(units))
        if pools is None:
            mixed, place = _mixed(units, episodes.label)
            return cls(np.where(mixed, folds.max() + 1 + place, folds), np.where(mixed, place.max() + 1 + apart, place))
        starts = np.where(pools < 0, units.max() + 1 + apart, units)
        mixed, place = _mixed(starts, episodes.label)
        scenes = np.unique(np.stack([folds, pools]), axis=1, return_inverse=True)[1].reshape(-1)
        # what is not tested is alone in its initial state, and in a block of its own
        block = np.where(mixed | (pools < 0), scenes.max() + 1 + place, scenes)
        return cls(block, np.where(mixed, place.max() + 1 + apart, place))

    def movable(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each block: its episodes, the first of each unit that moves, and the unit of each."""
        found = []
        for block in np.unique(self.block):
            own = np.flatnonzero(self.block == block)
            _, first, place = np.unique(self.moved[own], return_index=True, return_inverse=True)
            found.append((own, first, place))
        return found


def p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of the null (last axis) that is at least as large, the observation counted among it: (1 + #) / (1 + R).

    Phipson & Smyth, Permutation p-values should never be zero (2010). NaN where there is no null, or nothing was observed.
    """
    observed = np.asarray(observed, np.float64)
    if null.shape[-1] == 0:
        return np.full(observed.shape, np.nan)
    # a hair of tolerance: the same share of frames, summed in another order, is the same score
    p = (1 + (null >= observed[..., None] - 1e-9).sum(axis=-1)) / (1 + null.shape[-1])
    return np.where(np.isnan(observed), np.nan, p)


def p_value_of_best(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """For each of many cells: the share of permutations whose best cell is at least as good (Westfall & Young 1993).

    Args:
        observed: float [cells]; NaN for a cell that was not scored.
        null: float [cells, R] of the same permutations in every cell.
    """
    scored = ~np.isnan(observed)
    if not scored.any():
        return np.full(len(observed), np.nan)
    return p_value(observed, null[scored].max(axis=0)) if null.shape[1] else np.full(len(observed), np.nan)


def _mixed(units: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each episode's unit has several classes, bool [U], and its number from 0, int [U]."""
    _, place = np.unique(units, return_inverse=True)
    kinds = np.unique(np.stack([place, label]), axis=1)[0]
    return np.bincount(kinds)[place] > 1, place


def _blocks(splits: Sequence[Split]) -> np.ndarray:
    """The fold that tests each episode, int [U]; with a single split, which of its three parts it is in."""
    if len(splits) == 1:
        return np.select([splits[0].test, splits[0].held], [0, 1], 2)
    block = np.full(len(splits[0].test), -1)
    for number, split in enumerate(splits):
        block[split.test] = number
    return block
