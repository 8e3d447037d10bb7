"""Whether a task's goal can come true in a scene: puts joints and objects where the goal wants them, lets them settle, and
asks the environment's own predicates.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from vlascope_sim.assets.mjcf import Quaternion, about, multiply

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment

_REST_STEPS = 15
_AT_REST = 0.02
"""m/s."""
_WEDGED = 0.002
"""How deep an object may be in another, m."""
_CLOSING_STEPS = 30
"""Control periods in which a drawer is shut, so slowly that what lies in it comes along."""
_CLEARANCE = 0.002
_APART = 0.034
"""Half the distance at which two objects are put into one place, m."""
_RANGES = {
    "open": "default_open_ranges",
    "close": "default_close_ranges",
    "turnon": "default_turnon_ranges",
    "turnoff": "default_turnoff_ranges",
}


def reach_goal(environment: LiberoEnvironment) -> bool:
    """Puts everything where the goal wants it; whether the goal holds once all is at rest.

    The environment must have been reset. An object is tried upright and turned in steps of 15 degrees, then lying.
    """
    scene = _Scene(environment)
    goals = [tuple(goal) for goal in scene.domain.parsed_problem["goal_state"]]
    placements = [goal for goal in goals if goal[0] in ("on", "in")]
    moved = {goal[1] for goal in placements}
    placements.sort(key=lambda goal: goal[2] in moved)
    for predicate, name in (goal for goal in goals if len(goal) == 2 and goal[0] != "close"):
        scene.set_joints(name, _RANGES[predicate])
    for goal in placements:
        together = [other for other in placements if other[2] == goal[2]]
        shift = 0.0 if len(together) == 1 else _APART * (1 if together.index(goal) else -1)
        if not scene.put(goal, shift):
            return False
    for predicate, name in (goal for goal in goals if goal[0] == "close"):
        scene.set_joints(name, _RANGES[predicate], steps=_CLOSING_STEPS)
    scene.rest()
    return bool(scene.domain._check_success())


class _Scene:
    def __init__(self, environment: LiberoEnvironment):
        self.environment = environment
        self.domain: Any = environment.domain
        self.sim = self.domain.sim
        self.model, self.data = self.sim.model._model, self.sim.data._data

    def rest(self) -> None:
        """Waits."""
        for _ in range(_REST_STEPS):
            self._step()

    def set_joints(self, name: str, range_name: str, steps: int = 1) -> None:
        """Moves the joints of an object, or of the part that holds a region, into the range that its class names."""
        region = self.domain.object_sites_dict.get(name)
        holder = self.domain.get_object(region.parent_name if region is not None else name)
        aim = sum(holder.object_properties["articulation"][range_name]) / 2
        joints = (region if region is not None else holder).joints
        starts = [float(self.sim.data.get_joint_qpos(joint)) for joint in joints]
        for step in range(1, steps + 1):
            for joint, start in zip(joints, starts, strict=True):
                self.sim.data.set_joint_qpos(joint, start + (aim - start) * step / steps)
            if steps > 1:
                self._step()
        self.sim.forward()

    def put(self, goal: tuple[str, str, str], shift: float) -> bool:
        """Puts an object into or onto what the goal names, at the first rotation in which it stays there."""
        predicate, name, target = goal
        region = self.domain.object_sites_dict.get(target)
        if region is not None and getattr(region, "joints", None) and predicate == "in":
            self.set_joints(target, "default_open_ranges")
        joint = self.domain.objects_dict[name].joints[-1]
        before = self.sim.get_state()
        upright = tuple(self.sim.data.get_joint_qpos(joint)[3:])
        for turn in _turns():
            self.sim.set_state(before)
            place = self._place(target, predicate)
            self._set_pose(joint, name, place + np.array([0, shift, 0]), multiply(turn, upright))
            self.rest()
            if self.domain._eval_predicate(goal) and self._lies_free(name, joint):
                return True
        return False

    def _step(self) -> None:
        from vlascope_sim.environment import DUMMY_ACTION

        self.environment.step(np.array(DUMMY_ACTION), render=False)

    def _lies_free(self, name: str, joint: str) -> bool:
        """Whether an object is at rest and not wedged into anything."""
        root = self.model.body_rootid[self.domain.obj_body_id[name]]
        roots = self.model.body_rootid[self.model.geom_bodyid[self.data.contact.geom]]
        depths = -self.data.contact.dist[(roots == root).any(1)]
        speed = float(np.linalg.norm(self.sim.data.get_joint_qvel(joint)[:3]))
        return speed < _AT_REST and float(depths.max(initial=0.0)) < _WEDGED

    def _place(self, target: str, predicate: str) -> np.ndarray:
        """The middle of what the object is put on, [3] in m."""
        self.sim.forward()
        if target in self.domain.object_sites_dict:
            region = self.domain.object_sites_dict[target]
            size = np.abs(self.sim.data.get_site_xmat(target) @ np.asarray(region.size, float))
            middle = np.array(self.sim.data.get_site_xpos(target))
            return middle + np.array([0, 0, size[2] if predicate == "on" else -size[2]])
        x, y = self.data.xpos[self.domain.obj_body_id[target]][:2]
        return np.array([x, y, self._heights(target)[1]])

    def _set_pose(self, joint: str, name: str, place: np.ndarray, turn: Quaternion) -> None:
        """Moves an object so that its lowest point stands on `place`, at rest."""
        self.sim.data.set_joint_qpos(joint, np.array([*place, *turn]))
        self.sim.data.set_joint_qvel(joint, np.zeros(6))
        self.sim.forward()
        lift = place[2] - self._heights(name)[0] + _CLEARANCE
        self.sim.data.set_joint_qpos(joint, np.array([*place[:2], place[2] + lift, *turn]))
        self.sim.forward()

    def _heights(self, name: str) -> tuple[float, float]:
        """Lowest and highest point of an object's colliding geoms, m; of round ones, of the box round them."""
        root = self.model.body_rootid[self.domain.obj_body_id[name]]
        geoms = (self.model.body_rootid[self.model.geom_bodyid] == root) & (self.model.geom_group == 0)
        boxes = self.model.geom_aabb[geoms]
        frames = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        middle = self.data.geom_xpos[geoms, 2] + np.einsum("gi,gi->g", frames[:, 2], boxes[:, :3])
        reach = np.einsum("gi,gi->g", np.abs(frames[:, 2]), boxes[:, 3:])
        return float((middle - reach).min()), float((middle + reach).max())


def _turns() -> list[Quaternion]:
    yaws = [0, 90, 180, 270, *(15 * step for step in range(24) if step % 6)]
    lying = [multiply(about("z", yaw), about(axis, 90)) for yaw, axis in itertools.product((0, 90), ("x", "y"))]
    return [about("z", yaw) for yaw in yaws] + lying
