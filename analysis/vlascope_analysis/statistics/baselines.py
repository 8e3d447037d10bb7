"""What an accuracy is to be compared with: chance, the best constant answer, and labels shuffled over episodes.

Every probe takes its baselines from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlascope_analysis.statistics.splits import Split


def chance(splits: Sequence[Split]) -> float:
    """Accuracy of drawing one of the candidates at random, over the test frames of all splits."""
    sizes = np.array([len(split.test) for split in splits])
    return float(np.average([1 / split.candidates.sum() for split in splits], weights=sizes))


def majority(splits: Sequence[Split], labels: np.ndarray) -> float:
    """Accuracy of the best answer that is always the same: the share of the most frequent task among the test frames.

    Splits with the same candidates share one answer; with a split by task, each has its own.
    """
    tests: dict[bytes, list[np.ndarray]] = {}
    for split in splits:
        tests.setdefault(split.candidates.tobytes(), []).append(labels[split.test])
    together = [np.concatenate(parts) for parts in tests.values()]
    return float(sum(np.bincount(part).max() for part in together) / sum(map(len, together)))


def constant_cosine(labels: np.ndarray, embeddings: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Cosine of the mean training label to each test frame's: what a probe reaches that knows nothing. float [test]."""
    mean = embeddings[labels[train]].mean(axis=0)
    return embeddings[labels[test]] @ (mean / max(float(np.linalg.norm(mean)), 1e-8))


def shuffle_labels(labels: np.ndarray, units: np.ndarray, splits: Sequence[Split], count: int, seed: int) -> np.ndarray:
    """Labels permuted over whole units: all frames of a unit keep one label.

    Under the hypothesis that features know nothing of the task, such labels are as likely as the true ones, and so is
    whatever a probe makes of them. Units change labels within the test part of each fold alone (with a single split, within
    each of its parts), so that every part keeps how often each task occurs.

    Args:
        labels: int [N] true labels.
        units: [N] episodes; with a split by task, the tasks themselves.
        count: permutations; permutation k depends on `seed` and k alone.

    Returns:
        int [count, N].
    """
    blocks = [split.test for split in splits]
    if len(splits) == 1:
        blocks += [splits[0].train, splits[0].validation]
    shuffled = np.tile(labels, (count, 1))
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        for block in blocks:
            _, first, inverse = np.unique(units[block], return_index=True, return_inverse=True)
            shuffled[number, block] = rng.permutation(labels[block][first])[inverse]
    return shuffled


def p_value(observed: float | np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of the null (last axis) that is at least as large, the observation counted among it: (1 + #) / (1 + n).

    Phipson & Smyth, Permutation p-values should never be zero (2010). NaN where there is no null.
    """
    observed = np.asarray(observed)
    if null.shape[-1] == 0:
        return np.full(observed.shape, np.nan)
    # a hair of tolerance: the same share of frames, summed in another order, is the same accuracy
    return (1 + (null >= observed[..., None] - 1e-9).sum(axis=-1)) / (1 + null.shape[-1])
