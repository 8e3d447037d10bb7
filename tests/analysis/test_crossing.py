"""Whether the scene tells the label is measured; whole scenes are held out, and the scene alone is answered by chance."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, SplitConfig
from vlascope_analysis.statistics.crossing import Told
from vlascope_analysis.statistics.evaluation import Design
from vlascope_analysis.statistics.intervals import Means
from vlascope_analysis.statistics.permutation import Freedom, permuted_labels
from vlascope_analysis.statistics.splits import chosen_split, make_splits, scenes_tested, units_of

from tests.analysis.test_splits import episodes, labels_like


def crossed(scenes: int, objects: int, states: int, of: int | None = None):
    """Label, initial state and scene of episodes: each scene has some of the objects, each told once from each state."""
    rng, every = np.random.default_rng(3), np.arange(of or objects)
    held = [
        [own, *rng.permutation(np.delete(every, own))[: objects - 1].tolist()]
        for own in (scene % len(every) for scene in range(scenes))
    ]
    label = np.concatenate([np.tile(own, states) for own in held])
    size = objects * states
    return label, np.repeat(np.arange(scenes * states), objects), np.repeat(np.arange(scenes), size)


def design_of(label, start, scene, **options) -> Design:
    found = episodes(label, start, per_episode=1, scene=scene)
    return Design.of(
        found.table, labels_like(found.table["true"].to_numpy()), EvaluationConfig(permutations=19, **options)
    )


def told(label, start, scene) -> Told:
    found = episodes(label, start, per_episode=1, scene=scene)
    weights = Means(found.label, found.init_state, 1.0).weights
    return Told.of(found, np.arange(len(found)), weights, False, 0)


def test_a_suites_own_scenes_tell_the_instruction_and_crossed_ones_nothing():
    own = design_of(np.repeat(np.arange(4), 6), None, np.repeat(np.arange(4), 6))
    assert (own.told.scene, own.told.scene_p, own.told.crossed) == (pytest.approx(1), 1 / 200, False)
    assert np.isnan(own.told.init_state), "no two episodes begin alike"
    both = design_of(*crossed(8, 4, 3))
    assert both.told.crossed
    assert both.told.scene == pytest.approx(both.chance) == pytest.approx(0.25)
    assert both.told.init_state == pytest.approx(0.25)
    assert (both.told.scene_p, both.told.init_state_p) == (1, 1)
    # half of the scenes have one class, the others both
    label = np.concatenate([np.repeat([0, 1], 12), np.tile([0, 1], 12)])
    half = told(label, np.arange(48), np.repeat(np.arange(4), 12))
    assert half.scene == pytest.approx(0.75)
    assert half.scene_p <= 0.05


def test_labels_at_random_are_told_by_luck_alone():
    rng = np.random.default_rng(0)
    found = [told(rng.integers(3, size=36), np.arange(36), np.repeat(np.arange(6), 6)) for _ in range(60)]
    assert np.mean([each.scene_p <= 0.05 for each in found]) <= 0.15
    # that luck is large where scenes have few episodes, and it is said how large
    np.testing.assert_allclose(
        np.mean([each.scene for each in found]), np.mean([each.scene_at_random for each in found]), atol=0.05
    )
    alone = told(np.arange(12) % 3, np.arange(12), np.arange(12))
    assert (alone.scene, alone.scene_at_random, alone.scene_p) == (pytest.approx(1), pytest.approx(1), 1)


def test_episodes_of_one_initial_state_tell_each_other():
    start = np.repeat(np.arange(12), 2)
    assert design_of(np.repeat(np.arange(3), 8), start, np.repeat(np.arange(3), 8)).told.init_state == pytest.approx(1)


def test_scenes_that_are_not_known_are_said_to_be():
    found = design_of(np.repeat(np.arange(3), 4), None, None)
    assert np.isnan(found.told.scene)
    assert not found.told.crossed
    assert found.config.split == "init_state"


def test_whole_scenes_are_held_out_where_six_of_them_have_several_labels():
    assert chosen_split(episodes(*crossed(6, 4, 2)[:2], scene=crossed(6, 4, 2)[2]), SplitConfig()) == "scene"
    few = crossed(5, 4, 2)
    assert chosen_split(episodes(*few[:2], scene=few[2]), SplitConfig()) == "init_state"
    assert chosen_split(episodes(*few[:2], scene=few[2]), SplitConfig(split="scene")) == "scene"
    own = episodes(np.repeat(np.arange(8), 4), scene=np.repeat(np.arange(8), 4))
    assert chosen_split(own, SplitConfig()) == "init_state"
    for refused, why in (
        (own, "every scene has one instruction, so that another scene's episodes say nothing of it"),
        (episodes(np.arange(12) % 3), "no episode says its task"),
        (
            episodes(np.arange(12) % 3, scene=np.arange(12) // 6),
            "2 scenes of 2 with several instructions can be tested, and three are needed",
        ),
    ):
        with pytest.raises(AnalysisError, match=f"--split scene: {why}.*--prompt-mode crossed"):
            chosen_split(refused, SplitConfig(split="scene"))


@pytest.mark.parametrize("folds", [None, 1, 3])
def test_no_scene_is_on_two_sides_and_answers_are_of_the_scene(folds):
    label, start, scene = crossed(10, 6, 2, of=10)
    found = episodes(label, start, scene=scene)
    tested, classes = scenes_tested(found, SplitConfig(folds=folds))
    splits = make_splits(found, int(label.max()) + 1, SplitConfig(folds=folds, split="scene"))
    for split in splits:
        for one, other in ((split.fit, split.held), (split.fit, split.test), (split.held, split.test)):
            assert not set(found.scene[one]) & set(found.scene[other])
        assert set(found.label[split.test]) <= set(found.label[split.fit | split.held])
        for number in np.flatnonzero(split.test):
            own = set(found.label[found.scene == found.scene[number]]) & set(np.flatnonzero(classes))
            assert set(np.flatnonzero(split.candidates[number])) == own
            assert found.label[number] in own
            assert len(own) >= 2
    if folds != 1:
        np.testing.assert_array_equal(np.sum([split.test for split in splits], axis=0), tested)


def test_scenes_of_one_label_are_fitted_on_and_never_tested():
    label, start, scene = crossed(6, 3, 2)
    label = np.concatenate([label, [0, 0]])
    start, scene = np.concatenate([start, [90, 91]]), np.concatenate([scene, [6, 6]])
    found = design_of(label, start, scene)
    alone = np.flatnonzero(found.episodes.table["scene"] == "s6")
    assert not set(alone) & set(found.tested)
    assert all(split.fit[alone].all() for splits in found.assignments for split in splits)
    assert any("1 scene with only one of the instructions that can be tested: not tested" in w for w in found.warnings)
    # a label of one scene cannot be reached from others
    label, start, scene = crossed(6, 3, 2)
    rare = np.where((scene == 0) & (label == label[0]), 3, label)
    found = design_of(rare, start, scene)
    assert not np.any(found.means.label == 3)
    assert any("instructions of too few scenes" in w and "class 3" in w for w in found.warnings)
    assert found.chance == pytest.approx((5 / 3 + 1 / 2) / 6)


def test_every_answer_to_the_scene_alone_is_right_by_chance_however_unequal_scenes_are():
    rng = np.random.default_rng(1)
    label, start, scene = crossed(10, 6, 3, of=10)
    kept = np.sort(rng.permutation(len(label))[:130])  # some are told often in a scene, some once
    found = design_of(label[kept], start[kept], scene[kept])
    means, scenes = found.means, found.episodes.scene[found.tested]
    for _ in range(20):
        favourite = rng.permutation(10)  # the candidate of a scene that stands first
        answer = {s: min(set(means.label[scenes == s]), key=lambda c: favourite[c]) for s in set(scenes)}
        right = np.array([answer[s] == c for s, c in zip(scenes, means.label, strict=True)])
        assert means.mean(right) == pytest.approx(found.chance)
    for row in found.labellings[1:]:
        assert set(zip(scenes, row[found.tested], strict=True)) == set(zip(scenes, means.label, strict=True))


def test_labels_move_inside_scenes_and_initial_states_that_were_told_one_thing_whole():
    # two episodes from each initial state, told the same; three states and three labels a scene
    scene, start = np.repeat(np.arange(6), 6), np.repeat(np.arange(18), 2)
    found = episodes(start % 3, start, scene=scene)
    splits = make_splits(found, 3, SplitConfig(split="scene"))
    assert units_of(found, "scene")[1] == "scene"
    labels = permuted_labels(found, Freedom.of(found, found.init_state, splits, found.scene), 30, seed=1)
    for row in labels:
        for number in range(18):
            assert len(set(row[found.init_state == number])) == 1, "an initial state was torn"
        for number in range(6):
            np.testing.assert_array_equal(np.sort(row[found.scene == number]), [0, 0, 1, 1, 2, 2])
    assert (labels[1:] == found.label).mean() < 0.6


def test_held_out_initial_states_of_few_scenes_are_warned_of():
    label, scene = np.tile(np.arange(3), 8), np.repeat(np.arange(4), 6)
    said = "features that know the scene score below chance"
    assert any(said in warning for warning in design_of(label, None, scene).warnings)
    assert not any(said in warning for warning in design_of(label, None, scene * 0).warnings)
    assert not any(said in warning for warning in design_of(label, scene, scene).warnings)
