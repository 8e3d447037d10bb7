"""Parts that are fitted, held for choosing, and tested. No two of them share a scene, an episode, or an instruction.

Every probe takes its parts from here. No labelling has a say in them beyond how often each instruction occurs in a fold, which
permutations inside folds leave as it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from vlascope_base.text import listed

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import SplitConfig
from vlascope_analysis.statistics.units import Episodes

MANY_UNITS = 250
"""Episodes (or scenes) from which one held-out part is large enough: fewer are tested in five folds, each once."""

FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Split:
    """The episodes of the three parts, bool [U] each, and the instructions that an answer may be.

    Attributes:
        fit: what a map is fitted on.
        held: what decides how strong a penalty is, or when training stops. May be empty.
        test: what is answered by a map that saw none of it.
        candidates: bool [C]: every instruction, or with a split by task those of the test part.
    """

    fit: np.ndarray
    held: np.ndarray
    test: np.ndarray
    candidates: np.ndarray


def units_of(episodes: Episodes, by: str) -> tuple[np.ndarray, str]:
    """What a split holds out whole: its number for each episode, int [U], and its name in words.

    A scene from which one episode begins is named an episode.
    """
    if by == "task":
        return episodes.label, "instruction"
    if by == "scene" and episodes.scenes < len(episodes):
        return episodes.scene, "scene"
    return np.arange(len(episodes)), "episode"


def default_folds(units: np.ndarray) -> int:
    """Five folds for fewer than 250 episodes (or scenes), else 1: a single held-out part."""
    return FOLDS if len(np.unique(units)) < MANY_UNITS else 1


def make_splits(episodes: Episodes, instructions: int, config: SplitConfig, assignment: int = 0) -> list[Split]:
    """One assignment of episodes to parts: one split a fold.

    With folds every unit (scene, episode or instruction) is tested once. Fold k is tested by a map whose penalty was
    chosen on fold k + 2: of an instruction that only two neighbouring folds hold, one of them is still fitted. With
    one fold a share `test_fraction` of the units is held out, of each instruction at least one, and
    `validation_fraction` of the others chooses.

    Args:
        episodes: what is split.
        instructions: how many there are, C.
        config: how to split.
        assignment: which of many random assignments, from 0.

    Raises:
        AnalysisError: `config` cannot be used, or there are too few episodes, scenes or instructions.
    """
    config.check()
    if instructions < 2:
        raise AnalysisError(
            "the policy was told the same in every episode: a probe needs at least two instructions to tell apart"
        )
    units, name = units_of(episodes, config.split)
    folds = default_folds(units) if config.folds is None else config.folds
    rng = np.random.default_rng([config.seed, 0, assignment])
    if config.split == "task" and instructions < 6:
        raise AnalysisError(
            f"--split task: {instructions} instructions: needs at least 6, to have two to tell apart and enough to learn from"
        )
    owner = _owner(units, episodes.label)
    _enough_of_each(episodes, units, owner, instructions, name)
    if config.split == "task":
        folds = min(folds, instructions // 2)  # with one candidate every answer is right
    fold_of = _dealt(owner, folds, rng) if folds > 1 else _held_out(owner, config, rng, config.split == "task")
    _, place = np.unique(units, return_inverse=True)
    fold_of = fold_of[place]
    splits = []
    for fold in range(folds):
        test = fold_of == fold
        held = fold_of == (fold + 2) % folds if folds > 1 else fold_of == 1
        if not test.any():
            continue
        candidates = np.ones(instructions, bool)
        if config.split == "task":
            candidates = np.isin(np.arange(instructions), episodes.label[test])
        splits.append(Split(~test & ~held, held, test, candidates))
    return splits


def _owner(units: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The instruction by which each unit is dealt out: its own where it has one, else the commonest of its episodes."""
    return np.array([np.bincount(label[units == unit]).argmax() for unit in np.unique(units)])


def _enough_of_each(episodes: Episodes, units: np.ndarray, owner: np.ndarray, instructions: int, name: str) -> None:
    """Raises AnalysisError where an instruction was told in one unit only, so that none is left to test on."""
    if name == "instruction":
        return
    pairs = np.unique(np.stack([episodes.label, units]), axis=1)[0]
    single = np.flatnonzero(np.bincount(pairs, minlength=instructions) < 2)
    if len(single):
        more = (
            "capture more episodes (`vlascope-sim rollout --episodes`) until each was told in two, or leave out those that "
            "were told them (--episode-range; --exclude-episodes; --task-range where a task is always told the same)"
        )
        if name == "scene":
            more += "; --split episode lets episodes of one scene stand on both sides, where they look alike"
        raise AnalysisError(
            f"instructions {listed(single.tolist())} (counted from 0) were told in one {name}: none is left to test on; {more}"
        )


def _dealt(owner: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each unit: dealt out instruction by instruction, starting where the last one ended, so that folds are equally
    large and each has its share of every instruction.
    """
    order = np.concatenate(
        [rng.permutation(np.flatnonzero(owner == label)) for label in rng.permutation(np.unique(owner))]
    )
    fold_of = np.empty(len(owner), np.int64)
    fold_of[order] = np.arange(len(owner)) % folds
    return fold_of


def _held_out(owner: np.ndarray, config: SplitConfig, rng: np.random.Generator, whole: bool) -> np.ndarray:
    """0 for the tested units, 1 for the held ones, 2 for the fitted ones; `whole`: of the units, not of each instruction."""
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
