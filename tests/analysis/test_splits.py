"""No episode, initial state or scene is on two sides of a split, every class is tested, and too little data is an error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.data.labels import Labels
from vlascope_analysis.data.questions import question_of
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import SplitConfig
from vlascope_analysis.statistics.splits import default_folds, make_splits, units_of
from vlascope_analysis.statistics.units import Episodes, frame_weights


def labels_like(label, question: str = "instruction") -> Labels:
    """One-hot labels of frames, int [N]."""
    count = int(np.max(label)) + 1
    names = tuple(f"class {number}" for number in range(count))
    return Labels(
        names, (None,) * count, np.eye(count, dtype=np.float32), np.asarray(label), question=question_of(question)
    )


def episodes(label, init_state=None, per_episode: int = 3, scene=None) -> Episodes:
    """Episodes of several frames each, in no order; an initial state each, and no known scene, unless told."""
    label = np.asarray(label)
    start = np.arange(len(label)) if init_state is None else np.asarray(init_state)
    own = np.random.default_rng(0).permutation(np.repeat(np.arange(len(label)), per_episode))
    table = pd.DataFrame(
        {"run": "r", "episode": [f"e{n}" for n in own], "init_state": [f"i{n}" for n in start[own]], "true": label[own]}
    ).assign(scene=None if scene is None else [f"s{n}" for n in np.asarray(scene)[own]])
    return Episodes.of(table, labels_like(label[own]))


def counted(counts: dict[int, int]) -> Episodes:
    """So many episodes of each instruction."""
    return episodes(np.repeat(list(counts), list(counts.values())))


def test_episodes_are_counted_in_their_frames():
    found = episodes([0, 0, 1, 1, 2], [7, 7, 8, 9, 9], per_episode=4)
    assert (len(found), found.init_states) == (5, 3)
    np.testing.assert_array_equal(np.bincount(found.of_frame), [4] * 5)
    np.testing.assert_array_equal(found.label, found.table["true"])
    np.testing.assert_allclose(frame_weights(np.array([0, 1, 1, 1])), [1, 1 / 3, 1 / 3, 1 / 3])
    assert units_of(found, "init_state")[1] == "initial state"
    assert units_of(found, "episode")[1] == units_of(episodes([0, 1]), "init_state")[1] == "episode"
    assert units_of(found, "scene")[1] == "scene"


@pytest.mark.parametrize("folds", [1, 3, 5])
@pytest.mark.parametrize("counts", [{0: 5, 1: 5, 2: 5}, {0: 2, 1: 9, 2: 4}])
def test_by_episode(folds, counts):
    found = counted(counts)
    splits = make_splits(found, 3, SplitConfig(folds=folds, seed=1))
    assert len(splits) == folds
    for split in splits:
        np.testing.assert_array_equal(split.fit.astype(int) + split.held + split.test, 1)
        assert split.test.any()
        assert set(found.label[~split.test]) == {0, 1, 2}, "an instruction that nothing was learned of"
        assert split.candidates.all()
    tested = np.sum([split.test for split in splits], axis=0)
    assert set(found.label[tested > 0]) == {0, 1, 2}
    if folds > 1:
        np.testing.assert_array_equal(tested, 1)


def test_folds_are_equally_large():
    splits = make_splits(counted(dict.fromkeys(range(10), 3)), 10, SplitConfig(folds=5))
    assert [split.test.sum() for split in splits] == [6] * 5


def test_of_two_episodes_one_is_fitted_while_the_other_is_tested():
    found = counted({0: 2, 1: 2, 2: 2})
    for seed in range(20):
        for split in make_splits(found, 3, SplitConfig(seed=seed)):
            assert set(found.label[split.test]) <= set(found.label[split.fit])


def test_one_held_out_part_has_its_share_of_every_instruction():
    found = counted(dict.fromkeys(range(4), 10))
    (split,) = make_splits(found, 4, SplitConfig(folds=1, test_fraction=0.3, validation_fraction=0.25))
    for part, count in ((split.test, 3), (split.held, 2), (split.fit, 5)):
        np.testing.assert_array_equal(np.bincount(found.label[part]), [count] * 4)


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize(
    ("label", "start"),
    [
        (np.repeat(np.arange(3), 12), np.repeat(np.arange(12), 3)),  # of one instruction each
        (np.tile(np.arange(3), 8), np.repeat(np.arange(8), 3)),  # every instruction in each
        (np.arange(30) % 3, np.arange(30) // 4),  # some of each
    ],
)
def test_an_initial_state_is_held_out_whole(label, start, folds):
    found = episodes(label, start)
    splits = make_splits(found, 3, SplitConfig(folds=folds))
    for split in splits:
        for part in (split.fit, split.held, split.test):
            others = found.init_state[~part]
            assert not set(found.init_state[part]) & set(others)
        assert set(found.label[split.test]) <= set(found.label[~split.test])
    # told to, it deals out episodes all the same
    alone = make_splits(found, 3, SplitConfig(folds=folds, split="episode"))
    assert any(set(found.init_state[split.test]) & set(found.init_state[split.fit]) for split in alone)


@pytest.mark.parametrize("folds", [1, 3])
def test_by_task(folds):
    found = counted(dict.fromkeys(range(7), 2))
    splits = make_splits(found, 7, SplitConfig(split="task", folds=folds, seed=3))
    for split in splits:
        fit, held, test = (set(found.label[part]) for part in (split.fit, split.held, split.test))
        assert not fit & test
        assert not fit & held
        assert not held & test
        assert len(test) >= 2, "with one candidate every answer is right"
        assert len(fit) >= 2
        assert all(set(np.flatnonzero(row)) == test for row in split.candidates)


def test_the_seed_and_the_assignment_decide():
    found = counted(dict.fromkeys(range(3), 6))
    first, again = (make_splits(found, 3, SplitConfig(seed=1)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.test, b.test)
    for other in (make_splits(found, 3, SplitConfig(seed=2)), make_splits(found, 3, SplitConfig(seed=1), assignment=1)):
        assert any(not np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (
            {0: 4, 1: 1, 2: 1},
            {},
            "instructions 1, 2 .* were told in one episode: .*capture more episodes .*or leave out those",
        ),
        ({0: 3, 1: 3}, {"split": "task"}, "2 instructions: needs at least 6"),
        ({0: 3, 1: 3}, {"test_fraction": 1.0}, "--test-fraction 1.0"),
        ({0: 3, 1: 3}, {"folds": 0}, "--folds 0"),
        ({0: 3, 1: 3}, {"folds": 2}, "--folds 2: expected 1, or 3 and more"),
    ],
)
def test_errors(counts, options, message):
    with pytest.raises(AnalysisError, match=message):
        make_splits(counted(counts), len(counts), SplitConfig(**options))


def test_one_instruction_or_one_initial_state_is_too_little():
    with pytest.raises(AnalysisError, match="told the same in every episode"):
        make_splits(counted({0: 9}), 1, SplitConfig())
    one = episodes([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2])
    with pytest.raises(
        AnalysisError, match=r"instructions 0 .* were told in one initial state: .*--split episode lets"
    ):
        make_splits(one, 2, SplitConfig())
    assert len(make_splits(one, 2, SplitConfig(split="episode", folds=3))) == 3


def test_an_episode_of_two_instructions_is_an_error():
    table = pd.DataFrame({"run": "r", "episode": ["a", "a", "b"], "scene": "s", "init_state": "i"})
    with pytest.raises(AnalysisError, match="two instructions"):
        Episodes.of(table, labels_like([0, 1, 1]))


def test_default_folds():
    assert default_folds(np.repeat(np.arange(249), 2)) == 5
    assert default_folds(np.arange(250)) == 1
