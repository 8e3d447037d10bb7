"""Whether the stand-in assets serve a task: it builds, settles, shows its objects apart, and its goal can come true.

Any set of assets can be judged. What was found of the stand-ins lies beside this file, in `checked.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from vlascope_base.files import replace_file

from vlascope_sim.assets.goals import reach_goal
from vlascope_sim.assets.pictures import Appearance, Viewer

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment, Task

FILE = Path(__file__).with_name("checked.json")
"""The committed result of checking the stand-ins task by task."""
MOVED_CM = 3.0
TILTED_DEG = 5.0
FEWEST_PIXELS = 60
NEAREST_COLOR = 10.0
"""CIELAB distance; about 2 is just noticeable side by side."""
INIT_STATES = (0, 10, 20, 30, 40)
_STEPS = 30
_VISIBLE = 20
"""Pixels below which a colour is not compared."""


@dataclasses.dataclass(frozen=True)
class TaskCheck:
    """What was found of one task; a number is None where an earlier step failed.

    Attributes:
        suite, task: which.
        moved_cm: how far any object settled from its initial state, horizontally, cm.
        tilted_deg: how far any object turned while settling, degrees.
        fewest_pixels: that any object of interest shows to the agent's camera (256 x 256).
        nearest_color: smallest CIELAB distance between the mean colours of two objects of different category.
        goal: the goal was reached, by the environment's own predicate.
        failure: the first criterion that was not met, in words; None where all were.
    """

    suite: str
    task: int
    moved_cm: float | None = None
    tilted_deg: float | None = None
    fewest_pixels: int | None = None
    nearest_color: float | None = None
    goal: bool | None = None
    failure: str | None = None


@functools.cache
def read_checks(file: Path = FILE) -> tuple[str, tuple[TaskCheck, ...]]:
    """The hash of the assets that were checked, and a row for each task; of a missing file, an empty hash and no rows."""
    if not file.exists():
        return "", ()
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["tasks"]]
    return table["hash"], tuple(TaskCheck(**row) for row in rows)


def write_checks(checks: list[TaskCheck], assets_hash: str, versions: dict[str, str], file: Path = FILE) -> None:
    """Replaces the table, one task a line."""
    columns = [field.name for field in dataclasses.fields(TaskCheck)]
    rows = sorted((dataclasses.astuple(check) for check in checks), key=lambda row: (row[0], row[1]))
    head = json.dumps({"hash": assets_hash, "versions": versions, "columns": columns}, indent=1)
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    replace_file(file, f'{head[:-2]},\n "tasks": [\n{body}\n ]\n}}\n')
    read_checks.cache_clear()


def failures(suite: str, assets_hash: str) -> list[str]:
    """Why stand-ins do not serve a suite: one line a task that failed, or that no check of this very set covers."""
    from vlascope_sim.environment.tasks import suite_tasks

    checked_hash, checks = read_checks()
    if checked_hash != assets_hash:
        return [f"the committed check is of other assets ({checked_hash or 'none'}); run: vlascope-sim assets --check"]
    rows = {check.task: check for check in checks if check.suite == suite}
    lines = []
    for task in suite_tasks(suite):
        row = rows.get(task.id)
        if row is None or row.failure is not None:
            lines.append(f"task {task.id} ({task.instruction}): {row.failure if row else 'not checked'}")
    return lines


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
