"""What can be asked for in a scene: which object is to go where, and the words for it. Reads BDDL files, builds nothing."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Literal

from vlascope_sim.environment.tasks import Task
from vlascope_sim.errors import SimulationError

Targets = Literal["told", "all"]
DemonstratedSuite = Literal["libero_object", "libero_spatial", "libero_goal"]
"""Suites with tasks for the expert."""
SUITES: tuple[str, ...] = typing.get_args(DemonstratedSuite)

_KITCHEN_TARGETS = {"akita_black_bowl_1": "bowl", "cream_cheese_1": "cream cheese", "wine_bottle_1": "wine bottle"}
_KITCHEN_PLACES = {
    "plate_1": "on the plate",
    "flat_stove_1_cook_region": "on the stove",
    "wooden_cabinet_1_top_side": "on top of the cabinet",
    "akita_black_bowl_1": "in the bowl",
    "wine_rack_1_top_region": "on the rack",
}
_ONLY = {"akita_black_bowl_1": "cream_cheese_1", "wine_rack_1_top_region": "wine_bottle_1"}
"""Places of libero_goal that take one object only."""
_BASKET = "basket_1_contain_region"


@dataclasses.dataclass(frozen=True)
class Goal:
    """One thing to do in a scene.

    Attributes:
        predicate: LIBERO's, `in` or `on`.
        target: the object, such as `milk_1`.
        place: an object or a region, such as `basket_1_contain_region`.
        instruction: in the words that LIBERO uses for such a task.
    """

    predicate: str
    target: str
    place: str
    instruction: str

    @property
    def condition(self) -> tuple[str, str, str]:
        """As LIBERO's predicates take it."""
        return self.predicate, self.target, self.place


def goals_of(task: Task, targets: Targets) -> tuple[Goal, ...]:
    """The goals to demonstrate in a task's scene.

    Args:
        task: of a suite in `SUITES`.
        targets: `told` for the task's own goal; `all` for every object that can be grasped, and in libero_goal every place
            that it can be put to.

    Returns:
        Goals in a fixed order; none where the task is not of picking up and placing (doors, drawers, knobs, pushing).

    Raises:
        SimulationError: a suite without demonstrations, or `all` where instructions tell an object by where it stands.
    """
    if task.suite not in SUITES:
        raise SimulationError(f"suite {task.suite!r}: the expert knows {', '.join(SUITES)}")
    if targets == "told":
        return _told(task)
    if task.suite == "libero_object":
        found = _objects(task)
        return tuple(
            Goal("in", name, _BASKET, f"pick up the {_words(category)} and place it in the basket")
            for name, category in found.items()
            if category != "basket"
        )
    if task.suite == "libero_goal":
        return tuple(
            Goal("on", target, place, f"put the {name} {where}")
            for target, name in _KITCHEN_TARGETS.items()
            for place, where in _KITCHEN_PLACES.items()
            if target != place and _ONLY.get(place, target) == target
        )
    raise SimulationError(
        f"targets 'all': {task.suite} tells its bowls apart by where they stand; only 'told' goals can be demonstrated"
    )


def _told(task: Task) -> tuple[Goal, ...]:
    text = task.bddl_file.read_text()
    found = re.findall(r"\((\w+) (\w+) (\w+)\)", _section("goal", text))
    if len(found) != 1:
        return ()
    predicate, target, place = found[0]
    goal = Goal(predicate.lower(), target, place, task.instruction)
    if task.suite == "libero_goal" and (target not in _KITCHEN_TARGETS or place not in _KITCHEN_PLACES):
        return ()
    return (goal,) if goal.predicate in ("in", "on") else ()


def _objects(task: Task) -> dict[str, str]:
    """Name → category, in the file's order."""
    lines = re.findall(r"([\w ]+?)\s+-\s+(\w+)", _section("objects", task.bddl_file.read_text()))
    return {name: category for names, category in lines for name in names.split()}


def _words(category: str) -> str:
    return category.removeprefix("new_").replace("_", " ")


def _section(name: str, text: str) -> str:
    match = re.search(rf"\(:{name}\b(.*?)(?=\n\s*\(:|\Z)", text, re.DOTALL)
    return match[1] if match else ""
