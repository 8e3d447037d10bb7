"""LIBERO's suites and tasks, read from the files that hf-libero ships. The simulator is not imported.

Step limits are those of openpi's LIBERO client (examples/libero/main.py): the longest demonstration of a suite, rounded up.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import runpy
from pathlib import Path
from typing import Literal

import numpy as np

from vlascope_sim.environment.init_states import read_init_states
from vlascope_sim.environment.package import libero_folder
from vlascope_sim.errors import SimulationError

Suite = Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"]

STEP_LIMITS: dict[str, int] = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Suite → environment steps that a policy gets, settling not counted."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        suite: such as `libero_object`.
        id: its number in the official order.
        name: such as `pick_up_the_milk_and_place_it_in_the_basket`.
        instruction: the name in words, without its scene; what policies were trained on.
        bddl_file: the scene and the goal.
        init_file: the initial states.
    """

    suite: str
    id: int
    name: str
    instruction: str
    bddl_file: Path
    init_file: Path

    @property
    def step_limit(self) -> int:
        """Environment steps that a policy gets."""
        return STEP_LIMITS[self.suite]

    @property
    def init_state_count(self) -> int:
        """How many initial states there are; 50 in every task that ships."""
        return len(_states(self.init_file))

    def init_state(self, index: int) -> np.ndarray:
        """One flattened MuJoCo state, float64 [1 + nq + nv].

        Raises:
            SimulationError: there is no such state.
        """
        states = _states(self.init_file)
        if not 0 <= index < len(states):
            raise SimulationError(
                f"initial state {index}: task {self.id} of {self.suite} has 0-{len(states) - 1}; choose one of them"
            )
        return states[index]


@functools.cache
def suite_tasks(suite: str) -> tuple[Task, ...]:
    """The tasks of a suite in their official order.

    Raises:
        SimulationError: there is no such suite.
    """
    if suite not in STEP_LIMITS:
        raise SimulationError(f"suite {suite!r}: expected one of {', '.join(STEP_LIMITS)}")
    root = libero_folder()
    # As a file: importing it as a module imports its package, and with it torch.
    names = runpy.run_path(str(root / "benchmark/libero_suite_task_map.py"))["libero_task_map"][suite]
    return tuple(
        Task(
            suite,
            number,
            name,
            re.sub(r"^[A-Z_]*SCENE\d+_", "", name).replace("_", " "),
            root / "bddl_files" / suite / f"{name}.bddl",
            root / "init_files" / suite / f"{name}.pruned_init",
        )
        for number, name in enumerate(names)
    )


def load_task(suite: str, task_id: int) -> Task:
    """One task.

    Raises:
        SimulationError: there is no such suite or task.
    """
    tasks = suite_tasks(suite)
    if not 0 <= task_id < len(tasks):
        raise SimulationError(f"task {task_id}: {suite} has 0-{len(tasks) - 1}; choose one of them")
    return tasks[task_id]


@functools.lru_cache(maxsize=16)
def _states(path: Path) -> np.ndarray:
    return read_init_states(path)
