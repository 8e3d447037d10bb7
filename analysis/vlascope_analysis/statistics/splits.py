"""Train, validation and test parts that never share an episode. Every probe takes its parts from here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from vlascope_base.text import listed

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import SplitBy, SplitConfig

MANY_UNITS = 250
"""Episodes from which one held-out part is large enough: fewer are tested in five folds, each episode once."""


def unit_name(by: SplitBy) -> str:
    """What a split holds out whole, in words."""
    return "instruction" if by == "task" else by


@dataclasses.dataclass(frozen=True)
class Split:
    """Frame numbers of the three parts, and the instructions that an answer may be.

    Attributes:
        train, validation, test: int arrays, disjoint in frames and in units. Validation may be empty.
        candidates: bool [tasks]: every instruction, or with a split by task those of the test part.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    candidates: np.ndarray


def default_folds(units: np.ndarray) -> int:
    """Five folds for fewer than 250 episodes, else 1: a single held-out part."""
    return 5 if len(np.unique(units)) < MANY_UNITS else 1


def make_splits(units: np.ndarray, labels: np.ndarray, tasks: int, config: SplitConfig) -> list[Split]:
    """Parts by episode, stratified by instruction, or (`split` is `task`) by instruction.

    With `folds` above 1 every unit (episode, or instruction) is tested once. With 1 a share `test_fraction` of the units is
    held out, of each instruction at least one. Of what remains, `validation_fraction` of the units is the validation part: it
    decides when to stop or how strong a penalty is.

    Args:
        units: [N] the episode of each frame.
        labels: int [N] the instruction of each frame.
        tasks: number of instructions.
        config: how to split.

    Raises:
        AnalysisError: `config` cannot be used, or there are too few episodes or instructions.
    """
    config.check()
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    owner = labels[first]
    if not np.array_equal(owner[inverse], labels):
        raise AnalysisError("an episode carries two instructions: each must have one")
    if tasks < 2:
        raise AnalysisError(
            "the policy was told the same in every episode: a probe needs at least two instructions to tell apart"
        )
    folds = default_folds(units) if config.folds is None else config.folds
    rng = np.random.default_rng([config.seed, 0])
    if config.split == "episode":
        parts = _by_episode(owner, tasks, folds, config, rng)
    else:
        parts = (
            (np.isin(owner, train), np.isin(owner, validation), np.isin(owner, test))
            for train, validation, test in _by_task(tasks, folds, config, rng)
        )
    splits = []
    for train, validation, test in parts:
        candidates = np.ones(tasks, bool)
        if config.split == "task":
            candidates = np.isin(np.arange(tasks), owner[test])
        train, validation, test = (np.flatnonzero(part[inverse]) for part in (train, validation, test))
        splits.append(Split(train, validation, test, candidates))
    return splits


Parts = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Training, validation and test part of each fold."""


def _by_episode(owner: np.ndarray, tasks: int, folds: int, config: SplitConfig, rng: np.random.Generator) -> Parts:
    """The parts as bool [units]."""
    members = [rng.permutation(np.flatnonzero(owner == task)) for task in range(tasks)]
    single = [task for task, own in enumerate(members) if len(own) < 2]
    if single:
        raise AnalysisError(
            f"instructions {listed(single)} (counted from 0) were told in one episode: none is left to test on; capture "
            "more episodes (`vlascope-sim rollout --episodes`) until each was told in two, or leave out those that were told "
            "them (--episode-range; --task-range where a task is always told the same)"
        )
    fold_of = np.zeros(len(owner), np.int64)
    if folds == 1:
        for own in members:
            fold_of[own] = 1
            fold_of[own[: min(len(own) - 1, max(1, round(config.test_fraction * len(own))))]] = 0
    else:
        start = 0
        for own in members:  # starting where the last task ended keeps the folds equally large
            fold_of[own] = (start + np.arange(len(own))) % folds
            start += len(own)
    for fold in range(folds):
        test = fold_of == fold
        if not test.any():
            continue
        validation = np.zeros_like(test)
        for own in members:
            rest = rng.permutation(own[~test[own]])
            count = max(1, round(config.validation_fraction * len(rest))) if len(rest) > 1 else 0
            validation[rest[:count]] = True
        yield ~test & ~validation, validation, test


def _by_task(tasks: int, folds: int, config: SplitConfig, rng: np.random.Generator) -> Parts:
    """The parts as task numbers."""
    if tasks < 6:
        raise AnalysisError(
            f"--split task: {tasks} instructions: needs at least 6, to have two to tell apart and enough to learn from"
        )
    order = rng.permutation(tasks)
    if folds == 1:
        tests = [order[: min(tasks - 3, max(2, round(config.test_fraction * tasks)))]]
    else:
        tests = np.array_split(order, min(folds, tasks // 2))
    for test in tests:
        rest = rng.permutation(np.setdiff1d(order, test))
        count = min(len(rest) - 2, max(1, round(config.validation_fraction * len(rest))))
        yield rest[count:], rest[:count], test
