"""Whether the stand-in assets serve a task: it builds, settles, shows its objects apart, and its goal can come true.

Knows nothing of the shapes; it would judge any set of assets.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlascope_sim.assets.checked import TaskCheck
from vlascope_sim.assets.goals import reach_goal
from vlascope_sim.assets.pictures import Appearance, Viewer

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment, Task

MOVED_CM = 3.0
TILTED_DEG = 5.0
FEWEST_PIXELS = 60
NEAREST_COLOR = 10.0
"""CIELAB distance; about 2 is just noticeable side by side."""
INIT_STATES = (0, 10, 20, 30, 40)
_STEPS = 30
_VISIBLE = 20
"""Pixels below which a colour is not compared."""


def check_task(task: Task, assets: Path) -> TaskCheck:
    """Builds a task and judges it; whatever the simulator raises on the way is a finding too."""
    from vlascope_sim.environment import LiberoEnvironment

    try:
        with LiberoEnvironment(task, assets, render="fast") as environment:
            return _judge(environment)
    except Exception as error:  # LIBERO raises anything at all; the table keeps it
        return TaskCheck(
            task.suite, task.id, failure=f"does not build: {type(error).__name__}: {str(error).splitlines()[0]}"
        )


def _judge(environment: LiberoEnvironment) -> TaskCheck:
    task = environment.task
    domain: Any = environment.domain
    moved, tilted, pixels, already = 0.0, 0.0, 10**9, False
    color, alike = math.inf, ""
    viewer = Viewer(environment)
    try:
        for index in INIT_STATES:
            environment.reset(index, seed=index, settle_steps=0, render=False)
            start = _poses(domain)
            already |= _run(environment, _STEPS)
            for (place, turn), (place_now, turn_now) in zip(start, _poses(domain), strict=True):
                moved = max(moved, 100 * float(np.linalg.norm(place_now[:2] - place[:2])))
                tilted = max(tilted, math.degrees(2 * math.acos(min(1.0, abs(float(turn @ turn_now))))))
            looks = viewer.appearances()
            pixels = min([pixels, *(looks[name].pixels for name in _of_interest(domain))])
            color, alike = min((color, alike), _nearest_color(domain, looks))
        environment.reset(INIT_STATES[0], seed=0, render=False)
        goal = reach_goal(environment)
    finally:
        viewer.close()
    failure = None
    if moved > MOVED_CM or tilted > TILTED_DEG:
        failure = f"does not settle: an object moved {moved:.1f} cm and one turned {tilted:.0f} degrees"
    elif pixels < FEWEST_PIXELS:
        failure = f"an object of interest shows {pixels} pixels only"
    elif color < NEAREST_COLOR:
        failure = f"{alike} differ by {color:.1f} in color only"
    elif already:
        failure = "the goal is reached before anything is done"
    elif not goal:
        failure = "the goal was not reached"
    return TaskCheck(
        task.suite, task.id, round(moved, 2), round(tilted, 2), pixels, _finite(color), goal and not already, failure
    )


def _run(environment: LiberoEnvironment, steps: int) -> bool:
    """Whether the goal held at any step of doing nothing."""
    from vlascope_sim.environment import DUMMY_ACTION

    reached = [environment.step(np.array(DUMMY_ACTION), render=False)[1] for _ in range(steps)]
    return any(reached)


def _poses(domain: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Place [3, m] and quaternion [4] of every movable object."""
    qpos = [np.array(domain.sim.data.get_joint_qpos(thing.joints[-1])) for thing in domain.objects_dict.values()]
    return [(pose[:3], pose[3:]) for pose in qpos]


def _of_interest(domain: Any) -> list[str]:
    """Objects and fixtures that the task is about; of a region, what holds it."""
    names = []
    for name in domain.obj_of_interest:
        region = domain.object_sites_dict.get(name)
        holder = name if region is None else region.parent_name
        if holder in domain.obj_body_id:
            names.append(holder)
    return names


def _nearest_color(domain: Any, looks: dict[str, Appearance]) -> tuple[float, str]:
    """The smallest distance in CIELAB between two objects of different category, and which they are."""
    seen = [(thing.category_name, looks[name]) for name, thing in domain.objects_dict.items()]
    seen = [(category, look) for category, look in seen if look.pixels >= _VISIBLE]
    return min(
        (
            (float(np.linalg.norm(a.color - b.color)), f"{one} and {other}")
            for (one, a), (other, b) in itertools.combinations(seen, 2)
            if one != other
        ),
        default=(math.inf, ""),
    )


def _finite(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None
