"""A scripted expert: picks an object up and puts it where a goal wants it, and starts over where that went wrong.

It sees the simulation, not pictures, and decides each action from the present moment alone: where it is pushed aside, it
comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np

from vlascope_sim.demonstrations.grasps import Grasp, choose_grasp, clear_height
from vlascope_sim.environment.goals import Goal
from vlascope_sim.perturb.scene import Scene

Actions = Generator[np.ndarray, None, bool]

_OPEN, _CLOSED = -1.0, 1.0
_GAIN = 1.6 / 0.05
"""Command for each metre of error; robosuite moves the arm by 5 cm for a command of 1."""
_MOST_STEPS = 45
"""At one waypoint, before the next is tried all the same."""
_LEAST_CLOSING_STEPS, _CLOSING_STEPS, _OPENING_STEPS, _JUDGING_STEPS = 7, 20, 12, 12
_RESTING = 0.0008
"""Fingers that close by less in a step rest on something, m."""
_LIFTED, _LEAST_LIFT = 0.04, 0.10
"""By which an object has to have come up to count as grasped, and is to be lifted, m."""
_CARRY_MARGIN, _COMING_MARGIN = 0.03, 0.04
"""Above what is in the way, of what is carried, and of the empty gripper, m."""
_OVER_BASKET = 0.065
"""Of the gripper, where it lets go of something over a basket: its fingers stay outside."""
_SET_DOWN = 0.004
"""Above a surface, where something is let go of, m."""


class Expert:
    """Acts in one episode.

    Attributes:
        grasps: how often it has tried to grasp.
    """

    def __init__(self, scene: Scene, goal: Goal):
        self.grasps = 0
        self._scene, self._goal = scene, goal
        self._holder = scene.holder(goal.place)
        self._height = 0.0
        self._actions = self._plan()

    def act(self) -> np.ndarray:
        """The action for this moment: float64 [7]; translation in units of 5 cm within [-1, 1], no rotation, the gripper."""
        return next(self._actions)

    def _plan(self) -> Generator[np.ndarray, None, None]:
        while True:
            self.grasps += 1
            grasp = choose_grasp(self._scene, self._goal.target, self._holder, self.grasps)
            if not (yield from self._pick_up(grasp)) or not (yield from self._place()):
                continue
            up = self._scene.gripper + np.array([0, 0, 0.08])
            yield from self._go(lambda up=up: up, _OPEN, least=_JUDGING_STEPS)
            while self._scene.holds(self._goal.condition):
                yield self._towards(up, _OPEN)

    def _pick_up(self, grasp: Grasp) -> Actions:
        scene, target = self._scene, self._goal.target
        start = scene.position(target)[2]
        over = clear_height(
            scene, scene.gripper[:2], scene.position(target)[:2] + grasp.offset, target, margin=_COMING_MARGIN
        )
        above = max(grasp.above, over)

        def at(height: float) -> Callable[[], np.ndarray]:
            return lambda: np.array([*(scene.position(target)[:2] + grasp.offset), height])

        if scene.gripper[2] < above - 0.03:
            yield from self._go(lambda: np.array([*scene.gripper[:2], above]), _OPEN, z=0.03)
        yield from self._go(at(above), _OPEN, xy=0.012, z=0.03)
        yield from self._go(at(grasp.height), _OPEN, xy=0.008, z=0.006)
        place = np.array([*scene.gripper[:2], grasp.height])
        yield from self._close(place)
        self._height = self._carry_height()
        yield from self._go(lambda: np.array([*scene.gripper[:2], self._height]), _CLOSED, z=0.03)
        return bool(scene.position(target)[2] > start + _LIFTED)

    def _close(self, place: np.ndarray) -> Actions:
        """Until the fingers rest on something, or on each other."""
        rested, before = 0, self._scene.opening
        for step in range(_CLOSING_STEPS):
            yield self._towards(place, _CLOSED)
            now = self._scene.opening
            rested = rested + 1 if step >= _LEAST_CLOSING_STEPS and abs(now - before) < _RESTING else 0
            before = now
            if rested == 3:
                break
        return True

    def _place(self) -> Actions:
        scene, held = self._scene, self._held

        def over(height: float) -> Callable[[], np.ndarray]:
            return lambda: np.array([*self._over_place(), height])

        if not (yield from self._go(over(self._height), _CLOSED, xy=0.012, holding=held)):
            return False
        low = self._release_height()
        if not (yield from self._go(over(low), _CLOSED, xy=0.02, z=0.010, holding=held)):
            return False
        here = np.array([*scene.gripper[:2], low])
        yield from self._go(lambda: here, _OPEN, least=_OPENING_STEPS)
        return True

    def _go(
        self,
        aim: Callable[[], np.ndarray],
        grip: float,
        *,
        xy: float = math.inf,
        z: float = math.inf,
        least: int = 0,
        most: int = _MOST_STEPS,
        holding: Callable[[], bool] | None = None,
    ) -> Actions:
        """Moves until the gripper is within `xy` and `z` metres of the aim; False as soon as it holds nothing any more."""
        for step in range(most):
            if holding is not None and not holding():
                return False
            error = aim() - self._scene.gripper
            if step >= least and np.linalg.norm(error[:2]) < xy and abs(error[2]) < z:
                break
            yield self._towards(aim(), grip)
        return True

    def _towards(self, aim: np.ndarray, grip: float) -> np.ndarray:
        action = np.zeros(7)
        action[:3] = np.clip((aim - self._scene.gripper) * _GAIN, -1, 1)
        action[6] = grip
        return action

    def _held(self) -> bool:
        """Whether the target is still between the fingers."""
        low, high = self._scene.extent(self._goal.target)
        gripper = self._scene.gripper
        return bool((low - 0.03 < gripper).all() and (gripper < high + 0.03).all())

    def _over_place(self) -> np.ndarray:
        """Where the gripper has to be for the target to be over its place, x and y."""
        return (self._scene.position(self._goal.place) + self._scene.gripper - self._scene.position(self._goal.target))[
            :2
        ]

    def _hangs(self) -> float:
        """How far the target reaches down from the gripper."""
        return float(self._scene.gripper[2] - self._scene.extent(self._goal.target)[0][2])

    def _carry_height(self) -> float:
        scene, target = self._scene, self._goal.target
        end = scene.position(self._goal.place)[:2]
        top = clear_height(scene, scene.position(target)[:2], end, target, margin=_CARRY_MARGIN)
        lifted = float(scene.extent(target)[0][2]) + _LEAST_LIFT
        return max(top, lifted) + self._hangs()

    def _release_height(self) -> float:
        scene, goal = self._scene, self._goal
        region = scene.domain.object_sites_dict.get(goal.place)
        top = float(scene.extent(self._holder)[1][2])
        if goal.predicate == "in":
            return top + _OVER_BASKET
        surface = top if region is None else float(scene.position(goal.place)[2] + region.size[2])
        return surface + self._hangs() + _SET_DOWN
