"""Parts that are fitted, held for choosing, and tested. No two of them share a scene (or an initial state, an instruction, an
episode: whatever the split holds out whole).

Every probe takes its parts from here. No labelling has a say in them beyond how often each class occurs in a fold, which
permutations inside folds leave as it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from vlascope_base.text import counted, listed

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import SplitBy, SplitConfig
from vlascope_analysis.statistics.crossing import own_candidates, scenes_by_class
from vlascope_analysis.statistics.units import Episodes

MANY_UNITS = 250
"""Units from which one held-out part is large enough: fewer are tested in five folds, each once."""

FOLDS = 5

ENOUGH_SCENES = 6
"""Scenes with several classes from which whole scenes are held out unless told otherwise: of fewer units little can be said."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The episodes of the three parts, bool [U] each, and the classes that an answer may be.

    Attributes:
        fit: what a map is fitted on.
        held: what decides how strong a penalty is, or when training stops. May be empty.
        test: what is answered by a map that saw none of it.
        candidates: bool [U, C] of each tested episode: every class; where each scene has several, those of its scene; with a
            split by task those of the test part.
    """

    fit: np.ndarray
    held: np.ndarray
    test: np.ndarray
    candidates: np.ndarray


def units_of(episodes: Episodes, by: SplitBy) -> tuple[np.ndarray, str]:
    """What a split holds out whole: its number for each episode, int [U], and its name in words.

    An initial state from which one episode begins is named an episode.
    """
    if by == "task":
        return episodes.label, "instruction"
    if by == "scene":
        return episodes.scene, "scene"
    if by == "init_state" and episodes.init_states < len(episodes):
        return episodes.init_state, "initial state"
    return np.arange(len(episodes)), "episode"


def default_folds(units: np.ndarray) -> int:
    """Five folds for fewer than 250 units, else 1: a single held-out part."""
    return FOLDS if len(np.unique(units)) < MANY_UNITS else 1


def chosen_split(episodes: Episodes, config: SplitConfig) -> SplitBy:
    """What is held out whole: as asked, or unless asked scenes where six or more can be tested, else initial states.

    Raises:
        AnalysisError: scenes are asked for and cannot be held out.
    """
    if config.split not in (None, "scene"):
        return config.split
    tested, _ = scenes_tested(episodes, config)
    count = len(np.unique(episodes.scene[tested]))
    if config.split is None:
        return "scene" if count >= ENOUGH_SCENES else "init_state"
    if count >= 3:
        return "scene"
    one, several = episodes.question.one, episodes.question.several
    shared = int((scenes_by_class(episodes).sum(axis=1) > 1).sum())
    if (episodes.scene < 0).any():
        why = "no episode says its task, so that scenes are not known"
    elif not shared:
        why = f"every scene has one {one}, so that another scene's episodes say nothing of it"
    else:
        why = f"{counted(count, 'scene')} of {shared} with several {several} can be tested, and three are needed"
    raise AnalysisError(
        f"--split scene: {why}; use --split init_state, or capture scenes that are told several things "
        "(`vlascope-sim rollout --prompt-mode crossed`)"
    )


def scenes_tested(episodes: Episodes, config: SplitConfig) -> tuple[np.ndarray, np.ndarray]:
    """Which episodes can be tested where whole scenes are held out, bool [U], and which classes, bool [C].

    A class must be in more scenes than one part holds, so that some of them are fitted whichever are held out; a scene needs
    two such classes, to tell them apart. Episodes of scenes with one class are fitted on and never tested.
    """
    found = scenes_by_class(episodes)
    single = found[found.sum(axis=1) == 1].any(axis=0) if len(found) else np.zeros(found.shape[1], bool)
    scenes, classes = found.sum(axis=1) > 1, np.ones(found.shape[1], bool)
    while True:
        scenes = (found & classes).sum(axis=1) > 1
        count = int(scenes.sum())
        folds = _folds(count, config)
        largest = -(-count // folds) if folds > 1 else max(2, round(config.test_fraction * count))
        kept = classes & (single | (found[scenes].sum(axis=0) > largest))
        if (kept == classes).all():
            break
        classes = kept
    if not len(found):
        return np.zeros(len(episodes), bool), classes & False
    return scenes[episodes.scene] & classes[episodes.label], classes


def make_splits(episodes: Episodes, classes: int, config: SplitConfig, assignment: int = 0) -> list[Split]:
    """One assignment of episodes to parts: one split a fold.

    With folds every unit (scene, initial state, episode or instruction) is tested once. Fold k is tested by a map whose penalty
    was chosen on fold k + 2: of a class that only two neighbouring folds hold, one of them is still fitted. With one fold a
    share `test_fraction` of the units is held out, of each class at least one, and `validation_fraction` of the others chooses.

    Args:
        episodes: what is split.
        classes: how many there are, C.
        config: how to split.
        assignment: which of many random assignments, from 0.

    Raises:
        AnalysisError: `config` cannot be used, or there are too few episodes, units or classes.
    """
    config.check()
    _several(episodes, classes)
    by = chosen_split(episodes, config)
    units, name = units_of(episodes, by)
    rng = np.random.default_rng([config.seed, 0, assignment])
    if by == "task" and classes < 6:
        raise AnalysisError(
            f"--split task: {classes} {episodes.question.several}: needs at least 6, to have two to tell apart and enough to "
            "learn from"
        )
    if by == "scene":
        return _scenes(episodes, classes, config, rng)
    folds = default_folds(units) if config.folds is None else config.folds
    owner = _owner(units, episodes.label)
    _enough_of_each(episodes, units, classes, name)
    if by == "task":
        folds = min(folds, classes // 2)  # with one candidate every answer is right
    fold_of = _dealt(owner, folds, rng) if folds > 1 else _held_out(owner, config, rng, by == "task")
    _, place = np.unique(units, return_inverse=True)
    every = np.ones((len(episodes), classes), bool)
    if by != "task" and crossed(episodes):
        every = own_candidates(episodes, np.ones(len(episodes), bool))
    splits = _parts(fold_of[place], folds, every)
    if by == "task":
        splits = [
            dataclasses.replace(split, candidates=every & np.isin(np.arange(classes), episodes.label[split.test]))
            for split in splits
        ]
    return splits


def crossed(episodes: Episodes) -> bool:
    """Whether every scene has several classes, so that answers can be asked for among those of the scene."""
    found = scenes_by_class(episodes)
    return len(found) > 0 and bool((found.sum(axis=1) > 1).all())


def _several(episodes: Episodes, classes: int) -> None:
    if classes >= 2:
        return
    if episodes.question.label == "instruction":
        raise AnalysisError(
            "the policy was told the same in every episode: a probe needs at least two instructions to tell apart"
        )
    raise AnalysisError(
        f"--label {episodes.question.label}: {episodes.question.it} is the same in every episode: a probe needs at least two "
        f"{episodes.question.several} to tell apart"
    )


def _scenes(episodes: Episodes, classes: int, config: SplitConfig, rng: np.random.Generator) -> list[Split]:
    """Whole scenes held out; those with one class are always fitted."""
    tested, _ = scenes_tested(episodes, config)
    scenes, place = np.unique(episodes.scene[tested], return_inverse=True)
    folds = _folds(len(scenes), config)
    alike = np.zeros(len(scenes), np.int64)
    fold_of_scene = _dealt(alike, folds, rng) if folds > 1 else _held_out(alike, config, rng, whole=True)
    fold_of = np.full(len(episodes), -1)
    fold_of[tested] = fold_of_scene[place]
    # an episode of a tested scene whose class is not tested goes with its scene: it may stand in no other part
    of_scene = dict(zip(scenes.tolist(), fold_of_scene.tolist(), strict=True))
    fold_of = np.array([of_scene.get(scene, -1) for scene in episodes.scene.tolist()])
    return [
        dataclasses.replace(split, test=split.test & tested, held=split.held & tested)
        for split in _parts(fold_of, folds, own_candidates(episodes, tested))
    ]


def _folds(units: int, config: SplitConfig) -> int:
    """How many parts of so many scenes are tested in turn."""
    asked = (FOLDS if units < MANY_UNITS else 1) if config.folds is None else config.folds
    return asked if asked == 1 else max(3, min(asked, units))


def _parts(fold_of: np.ndarray, folds: int, candidates: np.ndarray) -> list[Split]:
    """The parts of each fold; of a single one, 0 is tested, 1 chooses. What is in none (-1) is fitted."""
    splits = []
    for fold in range(folds):
        test = fold_of == fold
        held = fold_of == (fold + 2) % folds if folds > 1 else fold_of == 1
        if test.any():
            splits.append(Split(~test & ~held, held, test, candidates))
    return splits


def _owner(units: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The class by which each unit is dealt out: its own where it has one, else the commonest of its episodes."""
    return np.array([np.bincount(label[units == unit]).argmax() for unit in np.unique(units)])


def _enough_of_each(episodes: Episodes, units: np.ndarray, classes: int, name: str) -> None:
    """Raises AnalysisError where a class is in one unit only, so that none is left to test on."""
    if name == "instruction":
        return
    pairs = np.unique(np.stack([episodes.label, units]), axis=1)[0]
    single = np.flatnonzero(np.bincount(pairs, minlength=classes) < 2)
    if not len(single):
        return
    question = episodes.question
    if question.label == "instruction":
        what = f"instructions {listed(single.tolist())} (counted from 0) were told in one {name}"
        more = (
            "capture more episodes (`vlascope-sim rollout --episodes`) until each was told in two, or leave out those that "
            "were told them (--episode-range; --exclude-episodes; --task-range where a task is always told the same)"
        )
    else:
        names = [episodes.names[number] for number in single]
        what = f"{question.several} {listed(names, 5)} are those of one {name} each"
        more = (
            f"capture more until each is that of two, or leave them out (--where, with {question.label} not in [...])"
        )
    if name == "initial state":
        more += "; --split episode lets episodes of one initial state stand on both sides, where they look alike"
    raise AnalysisError(f"{what}: none is left to test on; {more}")


def _dealt(owner: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each unit: dealt out class by class, starting where the last one ended, so that folds are equally
    large and each has its share of every class.
    """
    order = np.concatenate(
        [rng.permutation(np.flatnonzero(owner == label)) for label in rng.permutation(np.unique(owner))]
    )
    fold_of = np.empty(len(owner), np.int64)
    fold_of[order] = np.arange(len(owner)) % folds
    return fold_of


def _held_out(owner: np.ndarray, config: SplitConfig, rng: np.random.Generator, whole: bool) -> np.ndarray:
    """0 for the tested units, 1 for the held ones, 2 for the fitted ones; `whole`: of the units, not of each class."""
    part = np.full(len(owner), 2)
    for label in [None] if whole else np.unique(owner):
        own = rng.permutation(np.arange(len(owner)) if label is None else np.flatnonzero(owner == label))
        least = 2 if whole else 1
        tested = min(len(own) - least, max(least, round(config.test_fraction * len(own))))
        rest = len(own) - tested
        held = min(rest - least, max(1, round(config.validation_fraction * rest))) if rest > least else 0
        part[own[:tested]] = 0
        part[own[tested : tested + held]] = 1
    return part
