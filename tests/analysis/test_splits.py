"""No episode is ever on two sides of a split, every task is tested, and too little data is an error."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import SplitConfig
from vlascope_analysis.statistics.splits import default_folds, make_splits


def frames(counts: dict[int, int], per_episode: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Units and labels of `counts[task]` episodes a task, shuffled."""
    units = [f"{task}/{e}" for task, n in counts.items() for e in range(n) for _ in range(per_episode)]
    order = np.random.default_rng(0).permutation(len(units))
    return np.array(units)[order], np.array([int(u.split("/")[0]) for u in units])[order]


@pytest.mark.parametrize("folds", [1, 2, 5])
@pytest.mark.parametrize("counts", [{0: 5, 1: 5, 2: 5}, {0: 2, 1: 9, 2: 3}])
def test_by_episode(folds, counts):
    units, labels = frames(counts)
    splits = make_splits(units, labels, 3, SplitConfig(folds=folds, seed=1))
    assert len(splits) == folds
    for split in splits:
        parts = [set(units[part]) for part in (split.train, split.validation, split.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert len(np.concatenate([split.train, split.validation, split.test])) == len(units)
        assert set(labels[split.train]) == {0, 1, 2}, "a task that nothing was learned of"
        assert split.candidates.all()
    tested = np.concatenate([split.test for split in splits])
    if folds > 1:
        np.testing.assert_array_equal(np.sort(tested), np.arange(len(units)))
    assert set(labels[tested]) == {0, 1, 2}


def test_folds_are_equally_large():
    units, labels = frames(dict.fromkeys(range(10), 3), per_episode=1)
    assert [len(split.test) for split in make_splits(units, labels, 10, SplitConfig(folds=5))] == [6] * 5


def test_one_held_out_part_has_its_share_of_every_task():
    units, labels = frames(dict.fromkeys(range(4), 10), per_episode=1)
    (split,) = make_splits(units, labels, 4, SplitConfig(folds=1, test_fraction=0.3, validation_fraction=0.25))
    for part, count in ((split.test, 3), (split.validation, 2), (split.train, 5)):
        np.testing.assert_array_equal(np.bincount(labels[part]), [count] * 4)


@pytest.mark.parametrize("folds", [1, 3])
def test_by_task(folds):
    units, labels = frames(dict.fromkeys(range(7), 2))
    splits = make_splits(units, labels, 7, SplitConfig(split="task", folds=folds, seed=3))
    for split in splits:
        train, validation, test = (set(labels[part]) for part in (split.train, split.validation, split.test))
        assert not train & test
        assert not train & validation
        assert not validation & test
        assert len(test) >= 2, "with one candidate every answer is right"
        assert len(train) >= 2
        assert set(np.flatnonzero(split.candidates)) == test


def test_the_seed_decides():
    units, labels = frames(dict.fromkeys(range(3), 6))
    first, again, other = (make_splits(units, labels, 3, SplitConfig(seed=seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.train, b.train)
        np.testing.assert_array_equal(a.validation, b.validation)
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (
            {0: 4, 1: 1, 2: 1},
            {},
            "instructions 1, 2 .* were told in one episode: .*capture more episodes .*or leave out those",
        ),
        ({0: 9}, {}, "told the same in every episode"),
        ({0: 3, 1: 3}, {"split": "task"}, "2 instructions: needs at least 6"),
        ({0: 3, 1: 3}, {"test_fraction": 1.0}, "--test-fraction 1.0"),
        ({0: 3, 1: 3}, {"folds": 0}, "--folds 0"),
    ],
)
def test_errors(counts, options, message):
    units, labels = frames(counts)
    with pytest.raises(AnalysisError, match=message):
        make_splits(units, labels, len(counts), SplitConfig(**options))


def test_an_episode_of_two_tasks_is_an_error():
    units, labels = frames({0: 3, 1: 3})
    labels[np.flatnonzero(units == "0/1")[0]] = 1
    with pytest.raises(AnalysisError, match="two instructions"):
        make_splits(units, labels, 2, SplitConfig())


def test_default_folds():
    assert default_folds(np.repeat(np.arange(249), 2)) == 5
    assert default_folds(np.arange(250)) == 1
