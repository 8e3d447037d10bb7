"""Labels moved among episodes that could as well have had them, and the p-values that follow.

Under the hypothesis that features know nothing of the instruction, such labels are as likely as the true ones, and so
is whatever a probe makes of them. Episodes change labels only where the design leaves them free: inside the folds,
which were dealt with a view to the labels, and inside scenes, which features may recognise (Winkler et al. 2014,
2015: restricted permutation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vlascope_analysis.statistics.splits import Split
from vlascope_analysis.statistics.units import Episodes

LEVEL = 0.05
"""A p-value up to here allows to say that something can be read."""


def permuted_labels(
    episodes: Episodes, units: np.ndarray, splits: Sequence[Split], count: int, seed: int
) -> np.ndarray:
    """The true labels and permutations of them.

    A unit whose episodes were all told the same changes labels whole, with others of its fold. Where several things were told
    in a scene, its episodes change labels inside it.

    Args:
        episodes: whose labels.
        units: int [U] the scene, episode or instruction of each episode (`units_of`).
        splits: the assignment that serves the test.
        count: how many permutations.
        seed: permutation k depends on it and on k alone.

    Returns:
        int [1 + count, U].
    """
    blocks, moved = _free(episodes.label, units, splits)
    labels = np.tile(episodes.label, (1 + count, 1))
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        for own, first, place in _movable(blocks, moved):
            labels[1 + number, own] = rng.permutation(episodes.label[own][first])[place]
    return labels


def arrangements(episodes: Episodes, units: np.ndarray, splits: Sequence[Split]) -> float:
    """How many different labellings the permutations can reach, the true one among them; may be infinite."""
    blocks, moved = _free(episodes.label, units, splits)
    logarithm = 0.0
    for own, first, _ in _movable(blocks, moved):
        counts = np.bincount(episodes.label[own][first])
        logarithm += math.lgamma(counts.sum() + 1) - sum(math.lgamma(count + 1) for count in counts)
    return math.exp(logarithm) if logarithm < 700 else math.inf


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


def _free(label: np.ndarray, units: np.ndarray, splits: Sequence[Split]) -> tuple[np.ndarray, np.ndarray]:
    """Inside which block each episode's label may move, int [U], and what moves with it as one, int [U]."""
    _, place = np.unique(units, return_inverse=True)
    kinds = np.unique(np.stack([place, label]), axis=1)[0]
    mixed = np.bincount(kinds)[place] > 1
    folds = _blocks(splits)
    return (
        np.where(mixed, folds.max() + 1 + place, folds),
        np.where(mixed, place.max() + 1 + np.arange(len(label)), place),
    )


def _blocks(splits: Sequence[Split]) -> np.ndarray:
    """The fold that tests each episode, int [U]; with a single split, which of its three parts it is in."""
    if len(splits) == 1:
        return np.select([splits[0].test, splits[0].held], [0, 1], 2)
    block = np.full(len(splits[0].test), -1)
    for number, split in enumerate(splits):
        block[split.test] = number
    return block


def _movable(blocks: np.ndarray, moved: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each block: its episodes, the first of each unit that moves, and the unit of each."""
    found = []
    for block in np.unique(blocks):
        own = np.flatnonzero(blocks == block)
        _, first, place = np.unique(moved[own], return_index=True, return_inverse=True)
        found.append((own, first, place))
    return found
