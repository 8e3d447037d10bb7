"""Intervals cover what they should, shuffled labels stay with their episodes, baselines are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_analysis.options import SplitConfig
from vlascope_analysis.statistics.baselines import chance, majority, p_value, shuffle_labels
from vlascope_analysis.statistics.bootstrap import caution, intervals
from vlascope_analysis.statistics.splits import make_splits

RNG = np.random.default_rng(7)


def test_intervals_cover_the_truth_although_frames_are_not_independent():
    # episodes differ in how easy they are: drawing frames instead would cover 0.6 in about half of the cases
    covered = {"episodes": 0, "frames": 0}
    units = np.repeat(np.arange(30), 10)
    for trial in range(200):
        easy = RNG.beta(1.2, 0.8, 30)
        right = RNG.random(300) < np.repeat(easy, 10)
        for name, drawn in (("episodes", units), ("frames", np.arange(300))):
            found = intervals(right, drawn, samples=300, seed=trial)
            covered[name] += found.low <= 0.6 <= found.high
    assert 0.88 * 200 <= covered["episodes"] <= 199
    assert covered["frames"] < 0.8 * 200


def test_mean_is_over_frames_and_axes_are_kept():
    units = np.array(["a", "a", "a", "b"])
    values = np.array([[1, 1, 1, 0], [0, 0, 0, 1]])
    found = intervals(values, units)
    np.testing.assert_allclose(found.mean, [0.75, 0.25])
    np.testing.assert_allclose(found.low, 0)
    np.testing.assert_allclose(found.high, 1)
    again = intervals(values[1], units)
    assert (again.mean, again.low, again.high) == (found.mean[1], found.low[1], found.high[1])


def test_all_right_is_not_certain():
    found = intervals(np.ones((1, 20)), np.repeat(np.arange(10), 2), bounded=True)
    np.testing.assert_allclose(found.low, 0.6915, atol=1e-4)  # Clopper-Pearson, 10 of 10
    assert found.high == 1
    found = intervals(np.zeros((1, 20)), np.repeat(np.arange(10), 2), bounded=True)
    np.testing.assert_allclose(found.high, 0.3085, atol=1e-4)


def test_caution():
    assert caution(10, 0.5, 0.7, "episode") == []
    assert len(caution(4, 0.1, 0.9, "episode")) == 2
    assert "4 test episodes" in caution(4, 0.1, 0.4, "episode")[0]


@pytest.mark.parametrize("folds", [1, 4])
def test_shuffled_labels(folds):
    labels = np.repeat(np.arange(3), 20)
    units = np.repeat(np.arange(15), 4).astype(str)
    splits = make_splits(units, labels, 3, SplitConfig(folds=folds))
    shuffled = shuffle_labels(labels, units, splits, 50, seed=5)
    for row in shuffled:
        for unit in np.unique(units):
            assert len(set(row[units == unit])) == 1, "an episode carries two shuffled labels"
        for split in splits:
            np.testing.assert_array_equal(np.bincount(row[split.test]), np.bincount(labels[split.test]))
    agreement = (shuffled == labels).mean()
    assert 0.2 < agreement < 0.5
    np.testing.assert_array_equal(shuffle_labels(labels, units, splits, 3, seed=5), shuffled[:3])


def test_chance_and_majority():
    labels = np.repeat(np.arange(6), [8, 4, 4, 4, 4, 4])
    units = np.arange(28).astype(str)
    splits = make_splits(units, labels, 6, SplitConfig(folds=4))
    assert chance(splits) == pytest.approx(1 / 6)
    assert majority(splits, labels) == pytest.approx(8 / 28)
    by_task = make_splits(units, labels, 6, SplitConfig(split="task", folds=3))
    assert chance(by_task) == pytest.approx(1 / 2)
    assert majority(by_task, labels) == pytest.approx((8 + 4 + 4) / 28)


def test_p_value():
    null = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(p_value(np.array([0.3, 0.6]), null), [2 / 4, 1 / 4])
    assert np.isnan(p_value(0.3, np.zeros(0)))
