"""A policy whose answers are compared with what it said of itself: what does not fit reaches no robot and no store.

1. What it says of itself is checked once, when it is wrapped.
2. What it prepares, draws and compiles is checked as it comes, and so are the names of what its programs give. Shapes and
   dtypes are too, where they are known already.
3. An array that may still be on its way from the device is checked when somebody waits for it, and no earlier.

Copies no captured array but one that has to be converted. Whoever serves or captures a policy wraps it first.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, DTypeLike
from vlascope_base import VlascopeError
from vlascope_base.text import short
from vlascope_latents import CapturePlan, ModelLayout, TensorPlan
from vlascope_latents.layout import FRAME_NAMES
from vlascope_latents.store.run_folder import check_name
from vlascope_latents.tokens import prompt_of

from vlascope_server.policies.contract import Outcome, Policy, PolicyFacts, Prepared, Program, RequestShape
from vlascope_server.robots import RobotSpec


class PolicyFaultError(VlascopeError):
    """A policy gave something else than its contract says, or than it said of itself; the message is one line."""

    def __init__(self, message: str):
        super().__init__(f"policy, {message}")


class CheckedPolicy:
    """A policy as its users may rely on it; keeps the contract of `Policy` itself.

    Attributes:
        facts, layout, fingerprint: the policy's, as they were when it was wrapped.
    """

    facts: PolicyFacts
    layout: ModelLayout
    fingerprint: str

    def __init__(self, policy: Policy[Any]):
        """Checks what the policy says of itself, and what it draws.

        Raises:
            PolicyFaultError: it says nothing, or something that nobody could serve or keep.
        """
        self._policy = policy
        self.facts, self.layout, self.fingerprint = policy.facts, policy.layout, policy.fingerprint
        _check_facts(self.facts)
        if not isinstance(self.layout, ModelLayout):
            raise PolicyFaultError(f"layout: expected a ModelLayout, found {short(self.layout)}")
        if not isinstance(self.fingerprint, str) or not re.fullmatch(r"[0-9a-f]{8,128}", self.fingerprint):
            raise PolicyFaultError(f"fingerprint: expected 8 to 128 hex digits, found {short(self.fingerprint)}")
        prompts = filter(None, map(prompt_of, self.layout.experts))
        self._text_tokens = next((stop - start for start, stop in prompts), None)
        self.draw(0)

    def prepare(self, observation: Mapping[str, Any]) -> Prepared:
        """What the policy makes of an observation.

        Raises:
            RobotInputError: it is not what the robot sends.
            PolicyFaultError: what the policy made of it cannot be sent or kept.
        """
        with _blamed("prepare"):
            prepared = self._policy.prepare(observation)
        if not isinstance(prepared, Prepared):
            raise PolicyFaultError(f"prepare: expected a Prepared, found {short(prepared)}")
        if not isinstance(prepared.prompt, str):
            raise PolicyFaultError(f"prepare, prompt: expected text, found {short(prepared.prompt)}")
        if not _is_lines(prepared.warnings):
            raise PolicyFaultError(f"prepare, warnings: expected a tuple of lines, found {short(prepared.warnings)}")
        state, width = prepared.robot_state, self.facts.robot.state_dim
        if not _is_numbers(state) or state.shape != (width,):
            raise PolicyFaultError(f"prepare, robot_state: expected an array of {width} numbers, found {short(state)}")
        self._check_values(prepared.values)
        return prepared

    def draw(self, seed: int) -> np.ndarray | None:
        """What the policy draws.

        Raises:
            PolicyFaultError: it is not of the shape that the policy says.
        """
        with _blamed("draw"):
            drawn = self._policy.draw(seed)
        expected = self.facts.noise_shape
        if expected is not None and (not isinstance(drawn, np.ndarray) or drawn.shape != expected):
            raise PolicyFaultError(
                f"draw: expected an array {list(expected)}, as facts.noise_shape says, found {short(drawn)}"
            )
        return drawn

    def compile(self, shape: RequestShape, size: int) -> Program:
        """The policy's program, whose outcomes are checked.

        Raises:
            PolicyFaultError: it is no program, or one of another size.
        """
        with _blamed("compile"):
            program = self._policy.compile(shape, size)
        if not isinstance(program, Program) or not callable(program.run):
            raise PolicyFaultError(f"compile: expected a Program of size {size}, found {short(program)}")
        if program.size != size:
            raise PolicyFaultError(
                f"compile: expected a Program of size {size}, found one of size {short(program.size)}"
            )

        def run(prepared: Sequence[Any], drawn: Sequence[Any]) -> Outcome:
            with _blamed("run"):
                outcome = program.run(prepared, drawn)
            return self._checked(outcome, shape.capture, len(prepared))

        return Program(size, run)

    def robot_actions(self, actions: Float[np.ndarray, "A a"], prepared: Prepared) -> Float[np.ndarray, "A r"]:
        """What the policy makes of its actions for the robot.

        Raises:
            PolicyFaultError: one of both is not finite, or the robot's are no float32 of its width and the policy's horizon.
        """
        if not np.isfinite(actions).all():
            raise PolicyFaultError(
                f"run, actions: expected finite numbers, found {_not_finite(actions)} of {actions.size} not"
            )
        with _blamed("robot_actions"):
            executed = self._policy.robot_actions(actions, prepared)
        expected = self.facts.action_horizon, self.facts.robot.action_dim
        if not isinstance(executed, np.ndarray) or executed.shape != expected or executed.dtype != np.float32:
            raise PolicyFaultError(
                f"robot_actions: expected an array of float32 {list(expected)}, found {short(executed)}"
            )
        if not np.isfinite(executed).all():
            raise PolicyFaultError(
                f"robot_actions: expected finite numbers, found {_not_finite(executed)} of {executed.size} not"
            )
        return executed

    def _check_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Raises `PolicyFaultError` where a store could not keep these beside a frame."""
        if not isinstance(values, Mapping):
            raise PolicyFaultError(f"prepare, values: expected a map of arrays, found {short(values)}")
        for name, array in values.items():
            if name in FRAME_NAMES or name in self.layout.names:
                raise PolicyFaultError(f"prepare, values: {name!r} is the frame's own name: choose another")
            try:
                check_name("prepare, values", name)
            except VlascopeError as error:
                raise PolicyFaultError(str(error)) from None
            if not _is_numbers(array) or array.dtype.itemsize > 8:
                raise PolicyFaultError(f"prepare, values, {name}: expected an array of numbers, found {short(array)}")
        mask, tokens = values.get("prompt_mask"), self._text_tokens
        if mask is not None and tokens is not None and (mask.shape != (tokens,) or mask.dtype != bool):
            raise PolicyFaultError(
                f"prepare, values, prompt_mask: expected bool [{tokens}], one a token of the span text, found {short(mask)}"
            )

    def _checked(self, outcome: Outcome, plan: CapturePlan | None, rows: int) -> Outcome:
        """An outcome whose arrays are checked where they are waited for; what can be said of them now is checked now."""
        if not isinstance(outcome, Outcome):
            raise PolicyFaultError(f"run: expected an Outcome, found {short(outcome)}")
        tensors = {tensor.path: tensor for tensor in (plan.tensors if plan else ())}
        latents, counts = outcome.latents, outcome.decode_steps
        for name, mapping in (("latents", latents), ("decode_steps", counts)):
            if not isinstance(mapping, Mapping):
                raise PolicyFaultError(f"run, {name}: expected a map of arrays, found {short(mapping)}")
        if set(latents) != set(tensors):
            expected, found = (", ".join(map(str, paths)) or "none" for paths in (tensors, latents))
            raise PolicyFaultError(f"run, latents: expected the tensors of the plan, {expected}; found {found}")
        for path, array in latents.items():
            shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
            if isinstance(shape, tuple) and isinstance(dtype, np.dtype):
                _check_kind(tensors[path], rows, shape, dtype)
        steps = {expert.name: expert.steps for expert in self.layout.experts if expert.loop == "decode"}
        for expert in counts:
            if expert not in steps:
                raise PolicyFaultError(
                    f"run, decode_steps: {short(expert)} is no expert that decodes; {_listed(steps)}"
                )
        for expert in steps:
            if plan and plan.of(expert) and expert not in counts:
                raise PolicyFaultError(f"run, decode_steps: expected those of {expert}, of which something is kept")
        return Outcome(
            _Awaited("run, actions", outcome.actions, partial(self._actions, rows)),
            {path: _Awaited(f"run, {path}", a, partial(_tensor, tensors[path], rows)) for path, a in latents.items()},
            {
                expert: _Awaited(f"run, decode_steps of {expert}", array, partial(_counts, expert, steps[expert], rows))
                for expert, array in counts.items()
            },
        )  # fmt: skip

    def _actions(self, rows: int, actions: np.ndarray) -> np.ndarray:
        horizon = self.facts.action_horizon
        if actions.dtype.kind not in "iuf" and actions.dtype != ml_dtypes.bfloat16:
            raise PolicyFaultError(f"run, actions: expected numbers, found {actions.dtype}")
        if actions.ndim != 3 or len(actions) < rows or actions.shape[1] != horizon:
            raise PolicyFaultError(
                f"run, actions: expected [at least {rows}, {horizon}, the policy's width], found {list(actions.shape)}"
            )
        return actions


class _Awaited:
    """An array that is checked once, when the first of those that wait for it has it."""

    def __init__(self, what: str, array: ArrayLike, check: Callable[[np.ndarray], np.ndarray]):
        self._what, self._check = what, check
        self._array: ArrayLike | None = array
        self._checked: np.ndarray | None = None
        self._lock = threading.Lock()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        with self._lock:
            if self._checked is None:
                self._checked = self._check(self._waited())
                self._array = None
        return np.array(self._checked, dtype, copy=copy)

    def _waited(self) -> np.ndarray:
        try:
            with _blamed(self._what):
                return np.asarray(self._array)
        except PolicyFaultError:
            raise
        except Exception as error:
            raise PolicyFaultError(
                f"{self._what}: cannot be read ({type(error).__name__}: {short(str(error))})"
            ) from error


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Makes a fault of what would end a thread of ours, and the process with it.

    On the main thread it passes: there a signal asks for the end.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            raise
        raise PolicyFaultError(f"{what}: expected a result or an error, found {type(error).__name__}") from error


def _check_facts(facts: PolicyFacts) -> None:
    if not isinstance(facts, PolicyFacts):
        raise PolicyFaultError(f"facts: expected PolicyFacts, found {short(facts)}")
    try:
        check_name("facts, name", facts.name)
    except VlascopeError as error:
        raise PolicyFaultError(str(error)) from None
    for name in ("model", "description", "source"):
        text = getattr(facts, name)
        if not isinstance(text, str) or not text or not text.isprintable():
            raise PolicyFaultError(f"facts, {name}: expected one line of text, found {short(text)}")
    if not isinstance(facts.robot, RobotSpec):
        raise PolicyFaultError(f"facts, robot: expected a RobotSpec, found {short(facts.robot)}")
    sizes = {"image_size": facts.image_size, "action_horizon": facts.action_horizon,
             "robot.action_dim": facts.robot.action_dim, "robot.state_dim": facts.robot.state_dim}  # fmt: skip
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise PolicyFaultError(f"facts, {name}: expected a whole number of at least 1, found {short(size)}")
    shape = facts.noise_shape
    if shape is not None and not (isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)):
        raise PolicyFaultError(f"facts, noise_shape: expected a tuple of sizes or None, found {short(shape)}")
    for name in ("trained_on", "record"):
        value = getattr(facts, name)
        try:
            json.dumps(value, default=_path, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PolicyFaultError(f"facts, {name}: expected JSON, paths and tuples ({error})") from None


def _path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"found {short(value)}")


def _check_kind(tensor: TensorPlan, rows: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises `PolicyFaultError` where an array with the batch in front is not what the plan says of a tensor."""
    if len(shape) != len(tensor.shape) + 1 or shape[1:] != tensor.shape or shape[0] < rows:
        dims = ", ".join(f"{dim} {n}" for dim, n in zip(tensor.dims, tensor.shape, strict=True))
        raise PolicyFaultError(f"run, {tensor.path}: expected [at least {rows}, {dims}], found {list(shape)}")
    allowed = ("bfloat16", "uint16", "float32") if tensor.dtype == "bfloat16" else (tensor.dtype,)
    if dtype.name not in allowed:
        raise PolicyFaultError(f"run, {tensor.path}: expected {' or '.join(allowed)}, found {dtype.name}")


def _tensor(tensor: TensorPlan, rows: int, array: np.ndarray) -> np.ndarray:
    """A captured array in the plan's dtype, in this machine's order of bytes."""
    _check_kind(tensor, rows, array.shape, array.dtype)
    if tensor.dtype == "bfloat16" and array.dtype.name == "float32":
        return array.astype(ml_dtypes.bfloat16)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _counts(expert: str, most: int, rows: int, counts: np.ndarray) -> np.ndarray:
    """How many decode steps are real."""
    if counts.dtype.kind not in "iu" or counts.ndim != 1 or len(counts) < rows:
        raise PolicyFaultError(f"run, decode_steps of {expert}: expected {rows} whole numbers, found {short(counts)}")
    if (counts[:rows] < 0).any() or (counts[:rows] > most).any():
        raise PolicyFaultError(f"run, decode_steps of {expert}: expected 0 to {most}, found {counts[:rows].tolist()}")
    return counts


def _is_numbers(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf"


def _is_lines(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(line, str) for line in value)


def _not_finite(array: np.ndarray) -> int:
    return math.prod(array.shape) - int(np.isfinite(array).sum())


def _listed(steps: Mapping[str, int]) -> str:
    return f"allowed: {', '.join(steps)}" if steps else "none does"
