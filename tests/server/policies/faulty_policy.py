"""A policy that breaks its contract wherever an instruction tells it to: `linear_policy.py` with a table of faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from vlascope_server.policies.contract import Program

from tests.server.policies.linear_policy import LinearPolicy

HIDDEN = "reflex/hidden_states"


class Unreadable:
    """An array whose device was lost; it says neither shape nor dtype."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the device is lost\nand a second line")


class Late:
    """An array that says neither shape nor dtype before it is waited for."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def ended(error: BaseException) -> Any:
    raise error


PREPARED: dict[str, tuple[str, Any]] = {
    "no prompt": ("prompt", None),
    "a state of another shape": ("robot_state", np.zeros((2, 2))),
    "a state that is a list": ("robot_state", [1.0, 2.0, 3.0]),
    "actions among the values": ("values", {"actions": np.zeros(3)}),
    "a state among the values": ("values", {"state": np.zeros(3)}),
    "a seed among the values": ("values", {"noise_seed": np.zeros(())}),
    "an expert among the values": ("values", {"reflex": np.zeros(3)}),
    "a path among the values": ("values", {"../../outside": np.zeros(3)}),
    "objects among the values": ("values", {"x": np.array([None, "a"], object)}),
    "warnings that are numbers": ("warnings", (3,)),
}
"""By instruction, a field of what is prepared and what it is instead."""
RUNS: dict[str, Callable[[Any], Any]] = {
    "no outcome": lambda outcome: None,
    "an exit": lambda outcome: ended(SystemExit(5)),
    "an interrupt": lambda outcome: ended(KeyboardInterrupt()),
    "an error": lambda outcome: ended(ValueError("a fault\nof two lines")),
    "no rows": lambda outcome: dataclasses.replace(outcome, actions=outcome.actions[:0]),
    "a shorter horizon": lambda outcome: dataclasses.replace(outcome, actions=outcome.actions[:, :2]),
    "actions without a horizon": lambda outcome: dataclasses.replace(outcome, actions=outcome.actions[:, 0, 0]),
    "actions of text": lambda outcome: dataclasses.replace(outcome, actions=outcome.actions.astype(str)),
    "actions that are no numbers": lambda outcome: dataclasses.replace(outcome, actions=outcome.actions * np.nan),
    "actions that cannot be read": lambda outcome: dataclasses.replace(outcome, actions=Unreadable()),
    "steps of an expert that runs once": lambda outcome: dataclasses.replace(outcome, decode_steps={"reflex": [1]}),
}
"""By instruction, what becomes of an outcome."""
ROBOT_ACTIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "nothing for the robot": lambda actions: None,
    "a list for the robot": lambda actions: actions.tolist(),
    "another shape for the robot": lambda actions: np.zeros((1, 9), np.float32),
    "float64 for the robot": lambda actions: actions.astype(np.float64),
    "NaN for the robot": lambda actions: np.full((4, 2), np.nan, np.float32),
    "infinity for the robot": lambda actions: np.full((4, 2), np.inf, np.float32),
}
"""By instruction, what becomes of the robot's actions."""
CAPTURES: dict[str, Callable[[np.ndarray], Any]] = {
    "a layer too few": lambda array: array[:, :1],
    "axes the other way round": lambda array: np.swapaxes(array, 1, 2),
    "float64 captured": lambda array: array.astype(np.float64),
    "no rows captured": lambda array: array[:0],
    "a captured array that is none": lambda array: None,
    "a captured array of another type that comes late": lambda array: Late(array.astype(np.int64)),
    "a captured array that cannot be read": lambda array: Unreadable(),
}
"""By instruction, what becomes of a captured array."""
FAULTS = [*PREPARED, *RUNS, *ROBOT_ACTIONS]
LATE = [
    "a captured array that is none",
    "a captured array of another type that comes late",
    "a captured array that cannot be read",
]
"""Faults in captured arrays that are found once the client has its actions."""


class FaultyPolicy(LinearPolicy):
    """Does what `LinearPolicy` does, unless its instruction is the name of a fault."""

    def prepare(self, observation):
        prepared = super().prepare(observation)
        if prepared.prompt in PREPARED:
            name, value = PREPARED[prepared.prompt]
            object.__setattr__(prepared, name, value)
        elif prepared.prompt == "an exit while preparing":
            raise SystemExit(3)
        elif prepared.prompt == "nothing prepared":
            return None
        elif prepared.prompt == "values of its own":  # longer each time
            self.asked = getattr(self, "asked", 0) + 1
            return dataclasses.replace(prepared, values={"own": np.zeros(self.asked)})
        elif prepared.prompt == "a warning of two lines":
            return dataclasses.replace(prepared, warnings=("one\ntwo",))
        return prepared

    def draw(self, seed):
        return ended(SystemExit(4)) if seed == 667 else super().draw(seed)

    def compile(self, shape, size):
        program = super().compile(shape, size)
        if shape.capture and shape.capture.sites[0].layers == (0,):
            return None
        if shape.capture and shape.capture.sites[0].layers == (1,):
            return Program(0, program.run)
        if shape.capture and len(shape.capture.sites) > 1:
            raise SystemExit(9)

        def run(prepared, drawn):
            outcome, told = program.run(prepared, drawn), prepared[0].prompt
            if told in RUNS:
                return RUNS[told](outcome)
            if told == "a captured array too few" and shape.capture:
                return dataclasses.replace(outcome, latents={})
            if told in CAPTURES and shape.capture:
                return dataclasses.replace(outcome, latents={HIDDEN: CAPTURES[told](outcome.latents[HIDDEN])})
            return outcome

        return Program(size, run)

    def robot_actions(self, actions, prepared):
        change = ROBOT_ACTIONS.get(prepared.prompt)
        return change(actions) if change else super().robot_actions(actions, prepared)
