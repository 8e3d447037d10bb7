"""Makes one demonstration in an environment: reset, perturb, act, keep what was seen."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from vlascope_sim.demonstrations.expert import Expert
from vlascope_sim.demonstrations.noise import Noise
from vlascope_sim.demonstrations.plan import Demonstration
from vlascope_sim.environment import LiberoEnvironment
from vlascope_sim.perturb import PerturbationError, PerturbationRecord, reset_perturbed
from vlascope_sim.perturb.scene import Scene

AFTERWARDS = 6
"""Steps that are kept beyond the first in which the goal holds."""
_OUT = -1.0, -1.0
"""Stands for a place out of the picture."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """What a policy is trained on, one row a step.

    Attributes:
        image, wrist_image: before the step, uint8 [n, size, size, 3], as `SensorReadings` holds them.
        state: before the step, float32 [n, 8].
        actions: the expert's answer, float32 [n, 7].
        image_target, wrist_image_target: before the step, float32 [n, 2]: where the middle of the told object is seen, as
            shares of the picture's side from its left and top, hidden or not; -1 where it is out of the picture.
        image_place, wrist_image_place: the same of where the object is to be brought.
        action_mask: bool [n], False where something else was done; see `noise.chunk_mask`.
    """

    image: np.ndarray
    wrist_image: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    action_mask: np.ndarray
    image_target: np.ndarray
    wrist_image_target: np.ndarray
    image_place: np.ndarray
    wrist_image_place: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a demonstration went.

    Attributes:
        success: the goal held at some step within the limit, by LIBERO's own predicate.
        steps: until then, or until the limit.
        frames: kept, a few more than the steps.
        grasps: tried by the expert.
        lifted_first: the object that was first lifted by 5 cm; None where none was.
        sigma, bursts: of the noise that was drawn.
        perturbation: what it did; None where the scene had no room for it, and nothing was tried.
        problem: in that case, what was missing.
        seconds: of wall time.
    """

    success: bool
    steps: int = 0
    frames: int = 0
    grasps: int = 0
    lifted_first: str | None = None
    sigma: float = 0.0
    bursts: int = 0
    perturbation: PerturbationRecord | None = None
    problem: str | None = None
    seconds: float = 0.0


def demonstrate(
    environment: LiberoEnvironment, demonstration: Demonstration, *, record: bool = True
) -> tuple[Outcome, Frames | None]:
    """Makes a demonstration.

    Args:
        environment: of its task.
        demonstration: which.
        record: draw and keep frames; without, it takes half the time.

    Returns:
        How it went, and what was seen; no frames where none were to be recorded, or the scene had no room.

    Raises:
        SimulationError: no such initial state.
    """
    begun = time.perf_counter()
    try:
        seen, perturbed = reset_perturbed(
            environment,
            demonstration.init_state,
            demonstration.environment_seed,
            demonstration.perturbation,
            render=record,
        )
    except PerturbationError as error:
        return Outcome(success=False, problem=str(error), seconds=round(time.perf_counter() - begun, 3)), None
    scene = Scene(environment)
    expert = Expert(scene, demonstration.goal)
    noise = Noise(demonstration.noise, demonstration.noise_seed)
    rows, limit, steps = [], environment.task.step_limit, 0
    if demonstration.max_steps is not None:
        limit = min(limit, demonstration.max_steps)
    last, reached = limit, None
    while steps < last:
        label = expert.act()
        action, followed = noise.executed(label, steps)
        if record:
            target = environment.seen_at(np.mean(scene.extent(demonstration.goal.target), axis=0))
            place = environment.seen_at(scene.position(demonstration.goal.place))
            seen_at = (at[camera] or _OUT for at in (target, place) for camera in ("image", "wrist_image"))
            rows.append((seen.image, seen.wrist_image, seen.state, label, followed, *seen_at))
        seen, _ = environment.step(action, render=record)
        steps += 1
        if reached is None and scene.holds(demonstration.goal.condition):
            reached, last = steps, min(limit, steps + AFTERWARDS)
    outcome = Outcome(
        success=reached is not None,
        steps=steps if reached is None else reached,
        frames=steps,
        grasps=expert.grasps,
        lifted_first=environment.lifted_first,
        sigma=noise.sigma,
        bursts=len(noise.bursts),
        perturbation=perturbed,
        seconds=round(time.perf_counter() - begun, 3),
    )
    return outcome, _frames(rows) if record else None


def _frames(rows: list[tuple]) -> Frames:
    image, wrist_image, state, actions, followed, *targets = zip(*rows, strict=True)
    return Frames(
        np.stack(image), np.stack(wrist_image), np.stack(state).astype(np.float32), np.stack(actions).astype(np.float32),
        np.array(followed, bool), *(np.array(target, np.float32) for target in targets),
    )  # fmt: skip
