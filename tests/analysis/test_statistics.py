"""Intervals cover what they should, permuted labels stay where they are exchangeable, p values are what they are called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from vlascope_analysis.data.labels import Labels
from vlascope_analysis.options import EvaluationConfig, SplitConfig
from vlascope_analysis.statistics.evaluation import Design
from vlascope_analysis.statistics.intervals import Means, caution
from vlascope_analysis.statistics.permutation import Freedom, arrangements, p_value, p_value_of_best, permuted_labels
from vlascope_analysis.statistics.splits import make_splits, units_of

from tests.analysis.test_splits import episodes

RNG = np.random.default_rng(7)


def means(label, units=None, inflation: float = 1.0) -> Means:
    label = np.asarray(label)
    return Means(label, np.arange(len(label)) if units is None else np.asarray(units), inflation)


def test_instructions_count_alike():
    # a constant answer is right for one of three instructions, however many episodes that one has
    assert means([0, 0, 0, 0, 1, 2]).mean(np.array([1, 1, 1, 1, 0, 0])) == pytest.approx(1 / 3)


def test_intervals_cover_the_truth_although_episodes_of_a_scene_are_not_independent():
    covered = {"scenes": 0, "episodes": 0}
    scene = np.repeat(np.arange(20), 5)
    for _ in range(400):
        easy = RNG.beta(1.2, 0.8, 20)
        right = (RNG.random(100) < np.repeat(easy, 5)).astype(float)
        for name, units in (("scenes", scene), ("episodes", np.arange(100))):
            found = means(np.zeros(100, int), units).share(right, 0.95)
            covered[name] += found.low <= 0.6 <= found.high
    assert 0.92 * 400 <= covered["scenes"] <= 0.985 * 400
    assert covered["episodes"] < 0.85 * 400


def test_wilson_and_student_are_the_textbooks_where_units_are_single_draws():
    right = np.array([1.0] * 14 + [0.0] * 6)
    found = means(np.zeros(20, int)).share(right, 0.95)
    # the variance of 20 draws about their mean, with 19 degrees of freedom
    p, variance, z = 0.7, right.var(ddof=1) / 20, stats.t.ppf(0.975, 19)
    n = p * (1 - p) / variance
    centre, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.low, found.high) == (
        pytest.approx((centre - half) / (1 + z * z / n)), pytest.approx((centre + half) / (1 + z * z / n))
    )  # fmt: skip
    values = RNG.standard_normal(12)
    student = means(np.zeros(12, int)).any(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (student.low, student.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_assignments_are_averaged_and_the_variance_is_inflated():
    runs = RNG.random((5, 30))
    label = np.arange(30) % 3
    one, more = means(label), means(label, inflation=4.0)
    each = [one.any(run, 0.95) for run in runs]
    both = one.any(runs, 0.95)
    assert both.mean == pytest.approx(np.mean([found.mean for found in each]))
    halves = np.array([found.high - found.mean for found in each])
    assert both.high - both.mean == pytest.approx(np.sqrt((halves**2).mean()))
    assert more.any(runs, 0.95).high - both.mean == pytest.approx(2 * (both.high - both.mean))


def test_all_right_is_not_certain_and_one_unit_says_nothing():
    found = means(np.zeros(10, int)).share(np.ones(10), 0.95)
    assert found.high == pytest.approx(1)
    assert 0.6 < found.low < 0.75
    found = means(np.zeros(10, int)).share(np.zeros(10), 0.95)
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(1 - 0.6615, abs=0.02))
    alone = means([0, 0], [4, 4])
    assert (alone.share(np.ones(2), 0.95).low, alone.share(np.ones(2), 0.95).high) == (0, 1)
    assert alone.any(np.ones(2), 0.95).low == -np.inf


def test_caution():
    assert caution(10, 0.5, 0.7, "episode") == []
    assert len(caution(4, 0.1, 0.9, "episode")) == 2
    assert "4 test episodes" in caution(4, 0.1, 0.4, "episode")[0]


@pytest.mark.parametrize("folds", [1, 4])
def test_labels_move_inside_folds(folds):
    found = episodes(np.repeat(np.arange(3), [12, 4, 5]))
    units, _ = units_of(found, "init_state")
    splits = make_splits(found, 3, SplitConfig(folds=folds))
    free = Freedom.of(found, units, splits, None)
    labels = permuted_labels(found, free, 50, seed=5)
    np.testing.assert_array_equal(labels[0], found.label)
    for row in labels:
        for split in splits:
            for part in (split.fit, split.held, split.test):
                np.testing.assert_array_equal(np.sort(row[part]), np.sort(found.label[part]))
    assert 0.2 < (labels[1:] == found.label).mean() < 0.7
    np.testing.assert_array_equal(permuted_labels(found, free, 3, seed=5), labels[:4])


def test_initial_states_of_one_instruction_change_labels_whole():
    found = episodes(np.repeat(np.arange(3), 12), np.repeat(np.arange(12), 3))
    units, name = units_of(found, "init_state")
    assert name == "initial state"
    splits = make_splits(found, 3, SplitConfig())
    for row in permuted_labels(found, Freedom.of(found, units, splits, None), 30, seed=1):
        for start in range(found.init_states):
            assert len(set(row[found.init_state == start])) == 1, "an initial state was torn"
        for split in splits:
            np.testing.assert_array_equal(np.sort(row[split.test]), np.sort(found.label[split.test]))


@pytest.mark.parametrize("split", ["init_state", "task"])
def test_means_of_permuted_labels_are_means_where_units_and_instructions_differ_in_size(split):
    start = np.repeat(np.arange(24), np.where(np.arange(24) < 4, 8, 2))  # those of the first instruction are large
    told = start // 4
    frames = pd.DataFrame({"run": "r", "episode": np.arange(len(start)), "init_state": start, "scene": None})
    embeddings = RNG.standard_normal((6, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = Labels(tuple("abcdef"), (None,) * 6, embeddings, told)
    design = Design.of(frames, labels, EvaluationConfig(permutations=50, split=split))
    assert len({tuple(np.bincount(row)) for row in design.labellings}) > 1
    np.testing.assert_allclose(design.null_means(np.ones(design.labellings.shape)), 1)
    # that of each labelling is what the scores' own mean makes of it
    values = RNG.random(design.labellings.shape)
    expected = [dataclasses.replace(design.means, label=own).mean(row) for own, row in zip(
        design.labellings[1:, design.tested], values[1:, design.tested], strict=True)]  # fmt: skip
    np.testing.assert_allclose(design.null_means(values), expected)


def test_where_initial_states_are_told_several_things_labels_move_inside_them():
    found = episodes(np.tile(np.arange(3), 8), np.repeat(np.arange(8), 3))
    units, _ = units_of(found, "init_state")
    splits = make_splits(found, 3, SplitConfig())
    free = Freedom.of(found, units, splits, None)
    labels = permuted_labels(found, free, 60, seed=1)
    for row in labels:
        for start in range(8):
            np.testing.assert_array_equal(np.sort(row[found.init_state == start]), [0, 1, 2])
    assert arrangements(found, free) == pytest.approx(6**8)


def test_one_initial_state_that_was_told_two_things_leaves_the_others_free():
    # one of both instructions among twenty of one each
    found = episodes([0, 1, *(np.arange(20) % 2)], [0, 0, *range(1, 21)])
    units, name = units_of(found, "init_state")
    assert name == "initial state"
    splits = make_splits(found, 2, SplitConfig())
    free = Freedom.of(found, units, splits, None)
    labels = permuted_labels(found, free, 60, seed=1)
    both = found.init_state == found.init_state[np.flatnonzero(found.table["init_state"] == "i0")[0]]
    for row in labels:
        np.testing.assert_array_equal(np.sort(row[both]), [0, 1])
        for split in splits:
            np.testing.assert_array_equal(np.sort(row[split.test]), np.sort(found.label[split.test]))
    assert (labels[1:, ~both] == found.label[~both]).mean() < 0.7
    assert arrangements(found, free) > 1000


def test_units_count_alike_however_many_episodes_they_have():
    label, units = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 2])
    right = np.array([1, 1, 1, 0, 0])
    assert means(label, units).mean(right) == pytest.approx(1 / 4)
    # and of an instruction with few, heavy units the interval is not narrow because they agree
    rare = means(np.repeat([0, 1], [30, 2]))
    same = rare.share(np.concatenate([np.tile([0.0, 1.0], 15), [1.0, 1.0]]), 0.95)
    apart = rare.share(np.concatenate([np.tile([0.0, 1.0], 15), [1.0, 0.0]]), 0.95)
    assert same.high - same.low > 0.7 * (apart.high - apart.low)


def test_differences_that_are_all_the_same_are_not_certain():
    for value in (-1.0, 0.0, 1.0):
        found = means(np.zeros(24, int)).difference(np.full(24, value), 0.95)
        assert found.mean == pytest.approx(value)
        assert -1 <= found.low <= value + 1e-9
        assert value - 1e-9 <= found.high <= 1
        assert 0.1 < found.high - found.low < 0.4
    # of many pairs it is Student's
    values = RNG.choice([-1.0, 0.0, 1.0], 2000)
    many = means(np.zeros(2000, int))
    exact, added = many.any(values, 0.95), many.difference(values, 0.95)
    assert (added.low, added.high) == (pytest.approx(exact.low, abs=2e-3), pytest.approx(exact.high, abs=2e-3))
    assert means([0, 0], [4, 4]).difference(np.ones(2), 0.95).low == -1


def test_possible_arrangements_are_counted():
    found = episodes(np.repeat(np.arange(2), 3))
    units, _ = units_of(found, "init_state")
    splits = make_splits(found, 2, SplitConfig(folds=3))
    # one of each instruction in a fold: two arrangements of each
    free = Freedom.of(found, units, splits, None)
    assert arrangements(found, free) == pytest.approx(8)
    reached = {tuple(row) for row in permuted_labels(found, free, 300, seed=0)}
    assert len(reached) == 8


def test_p_value():
    null = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(p_value(np.array([0.3, 0.6]), null), [2 / 4, 1 / 4])
    assert np.isnan(p_value(np.float64(0.3), np.zeros(0)))
    # of the best: each permutation's best cell; a cell that was not scored has no say
    null = np.array([[0.1, 0.2, 0.9], [0.8, 0.1, 0.1], [np.nan] * 3])
    np.testing.assert_allclose(p_value_of_best(np.array([0.85, 0.1, np.nan]), null), [2 / 4, 4 / 4, np.nan])
