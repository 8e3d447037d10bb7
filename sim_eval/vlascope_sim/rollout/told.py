"""What an episode's policy is told: the words, the object that they are about, and what success means then.

Scenes are read from the tasks' files; nothing is simulated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from vlascope_base.seeds import derive_seed

from vlascope_sim.environment.goals import SUITES, Goal, goals_of
from vlascope_sim.environment.tasks import Task, load_task
from vlascope_sim.errors import RolloutError

Condition = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a policy is told.

    Attributes:
        instruction: the words.
        object: of the scene that they say to take, such as `milk_1`; None where they name none, or it is not known.
        goal: the condition that success is judged by; None for the task's own.
    """

    instruction: str
    object: str | None = None
    goal: Condition | None = None


def own_object(task: Task) -> str | None:
    """The object that a task says to take; None where it is not of picking up and placing, or of a suite that is not read."""
    goals = goals_of(task, "told") if task.suite in SUITES else ()
    return goals[0].target if goals else None


def other_object(task: Task, seed: int, episode: int) -> Told:
    """Tells an episode to take another object of its scene than its task does; every object is equally likely.

    Args:
        task: of which scene.
        seed: the campaign's.
        episode: its number.

    Raises:
        RolloutError: as `check_others`.
    """
    by_object = _others(task)
    rng = np.random.default_rng(derive_seed("told", seed, task.suite, task.id, episode))
    return _drawn(by_object[sorted(by_object)[int(rng.integers(len(by_object)))]], rng)


def check_others(suite: str, tasks: Iterable[int]) -> None:
    """Whether every task's scene has other objects that a policy can be told to take.

    Raises:
        RolloutError: a suite whose objects have no names that tell them apart, or a scene with no other object.
    """
    for number in tasks:
        _others(load_task(suite, number))


def crossed_object(task: Task, seed: int, episode: int, turn: int) -> Told:
    """Tells an episode to take one of the objects of its scene: each in its turn, the task's own among them.

    Args:
        task: of which scene.
        seed: the campaign's.
        episode: whose scene it is (`Campaign.scene_of`).
        turn: the object's number, from 0 to below `crossed_count`.

    Raises:
        RolloutError: as `check_others`.
    """
    by_object = _takeable(task, "crossed")
    name = sorted(by_object)[turn]
    return _drawn(
        by_object[name], np.random.default_rng(derive_seed("crossed", seed, task.suite, task.id, episode, name))
    )


def crossed_count(task: Task) -> int:
    """How many objects of its scene a policy can be told to take, the task's own among them.

    Raises:
        RolloutError: as `check_others`.
    """
    return len(_takeable(task, "crossed"))


def _others(task: Task) -> dict[str, list[Goal]]:
    """Object → what can be asked of it, without the task's own object."""
    found = _takeable(task, "other")
    found.pop(own_object(task) or "", None)
    if not found:
        raise RolloutError(f"prompt_mode 'other': task {task.id} of {task.suite} has no other object to take")
    return found


def _takeable(task: Task, mode: str) -> dict[str, list[Goal]]:
    """Object → what can be asked of it."""
    if task.suite not in ("libero_object", "libero_goal"):
        raise RolloutError(
            f"prompt_mode {mode!r}: expected libero_object or libero_goal, whose objects are known by their names; "
            f"found {task.suite}"
        )
    found: dict[str, list[Goal]] = {}
    for goal in goals_of(task, "all"):
        found.setdefault(goal.target, []).append(goal)
    return found


def _drawn(goals: Sequence[Goal], rng: np.random.Generator) -> Told:
    """One of the things that can be asked of an object."""
    goal = goals[int(rng.integers(len(goals)))]
    return Told(goal.instruction, goal.target, goal.condition)
