"""The list of demonstrations that were tried, beside the dataset: one line each.

A line is written before the episode that it announces: where a process died in between, the dataset has fewer episodes than
the list says, and such lines are taken back when the list is opened again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from vlascope_base.files import append_line, replace_file
from vlascope_datasets.info import COLLECTIONS

from vlascope_sim.demonstrations.episode import Outcome
from vlascope_sim.demonstrations.plan import Demonstration
from vlascope_sim.errors import SimulationError
from vlascope_sim.statistics import wilson_interval

LIST_FILE, SUMMARY_FILE = "demonstrations.jsonl", "summary.json"


class DemonstrationRow(TypedDict):
    """A line of the list, as JSON holds it.

    `collection` is a line of `collections.jsonl`; `dataset_episode` is None where the demonstration was not kept;
    `demonstration` and `outcome` are maps of `Demonstration` and `Outcome`.
    """

    id: str
    collection: int
    dataset_episode: int | None
    demonstration: dict[str, Any]
    outcome: dict[str, Any]


class DemonstrationMetrics(TypedDict):
    """Of the demonstrations of a goal, or of all; scenes without room (`no_room`) are in no other number."""

    tried: int
    succeeded: int
    success_rate: float | None
    wilson_95: list[float]
    told_object_lifted_first: int
    mean_steps_of_successes: float | None
    needed_another_grasp: int
    no_room: int
    frames: int


class DemonstrationSummary(TypedDict):
    """Metrics by task and goal, and of all."""

    goals: dict[str, DemonstrationMetrics]
    all: DemonstrationMetrics


class DemonstrationList:
    """`demonstrations.jsonl`, read when opened, then appended to by this process alone.

    Raises:
        SimulationError: a line other than the last is no such map.
    """

    def __init__(self, folder: Path, episodes: int):
        """Opens the list of a dataset that has so many episodes."""
        self._path = folder / LIST_FILE
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        self._by_id: dict[str, DemonstrationRow] = {}
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                kept = row["dataset_episode"]
                if kept is None or kept < episodes:
                    self._put(row)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):
                    break
                raise SimulationError(f"{self._path}, line {number}: no demonstration ({error})") from error
        self._rewrite()

    @property
    def rows(self) -> list[DemonstrationRow]:
        """Every line; one a demonstration: where it was made again, the later line counts."""
        return list(self._by_id.values())

    @property
    def done(self) -> set[str]:
        """Ids of the demonstrations that were tried."""
        return set(self._by_id)

    @property
    def left_out(self) -> set[str]:
        """Ids of those that were tried, failed, and are not in the dataset; a scene without room gives nothing to put there."""
        return {
            row["id"] for row in self.rows if row["dataset_episode"] is None and row["outcome"].get("problem") is None
        }

    def append(
        self, demonstration: Demonstration, outcome: Outcome, collection: int, dataset_episode: int | None
    ) -> None:
        """Adds a line, on disk when this returns."""
        row: DemonstrationRow = {
            "id": demonstration.id,
            "collection": collection,
            "dataset_episode": dataset_episode,
            "demonstration": dataclasses.asdict(demonstration),
            "outcome": dataclasses.asdict(outcome),
        }
        append_line(self._path, row)
        self._put(row)

    def _put(self, row: DemonstrationRow) -> None:
        self._by_id.pop(row["id"], None)  # it takes its place at the end
        self._by_id[row["id"]] = row

    def _rewrite(self) -> None:
        replace_file(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))


def append_run(folder: Path, provenance: Mapping[str, object]) -> int:
    """Notes how a collection is made; its line, from 0. Half a line that a full disk left is taken back."""
    path = folder / COLLECTIONS
    whole = (
        [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
    )
    replace_file(path, b"".join([*whole, json.dumps(provenance).encode() + b"\n"]))
    return len(whole)


def summarise(rows: Iterable[DemonstrationRow]) -> DemonstrationSummary:
    """Success by task and goal, and of all, each with its 95 % Wilson interval; scenes without room are counted apart."""
    groups: dict[str, list[dict[str, Any]]] = {}
    rows = list(rows)
    for row in rows:
        made = row["demonstration"]
        name = f"{made['suite']} {made['task']}: {made['goal']['instruction']}"
        groups.setdefault(name, []).append(row["outcome"] | {"target": made["goal"]["target"]})
    everything = [outcome for outcomes in groups.values() for outcome in outcomes]
    return {"goals": {name: _metrics(outcomes) for name, outcomes in groups.items()}, "all": _metrics(everything)}


def _metrics(outcomes: list[dict[str, Any]]) -> DemonstrationMetrics:
    tried = [outcome for outcome in outcomes if outcome["problem"] is None]
    won = [outcome for outcome in tried if outcome["success"]]
    return {
        "tried": len(tried),
        "succeeded": len(won),
        "success_rate": round(len(won) / len(tried), 4) if tried else None,
        "wilson_95": [round(bound, 4) for bound in wilson_interval(len(won), len(tried))],
        "told_object_lifted_first": sum(outcome["lifted_first"] == outcome["target"] for outcome in tried),
        "mean_steps_of_successes": round(sum(o["steps"] for o in won) / len(won), 1) if won else None,
        "needed_another_grasp": sum(outcome["grasps"] > 1 for outcome in tried),
        "no_room": len(outcomes) - len(tried),
        "frames": sum(outcome["frames"] for outcome in tried),
    }
