"""The committed result of checking the stand-in assets task by task. Knows nothing of how a task is checked."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

FILE = Path(__file__).with_name("checked.json")


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
    file.write_text(f'{head[:-2]},\n "tasks": [\n{body}\n ]\n}}\n')
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
