"""What the simulator knows and a policy does not: poses, distances to the goal, the gripper, what was lifted first.

Positions are metres in the world's frame, quaternions are w, x, y, z. Names and shapes depend on the task alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LIFTED = 0.05
"""Metres above where it stood at the episode's start."""


def annotate(domain: Any) -> dict[str, np.ndarray]:
    """Annotations of the present moment.

    Args:
        domain: LIBERO's environment (a `BDDLBaseDomain`).

    Returns:
        name → float64 array:
        `pose_<object>` [7], position and quaternion of every movable object;
        `gripper_position` [3];
        `gripper_opening` [], the distance between the fingers;
        `goal_reached` [conditions], 1 where a condition of the goal holds;
        `gripper_distance` [conditions], from the gripper to what the condition is about;
        `goal_distance` [conditions], from there to where it is to be; 0 where the condition names no place (`open`, `turnon`).
    """
    data = domain.sim.data
    robot = domain.robots[0]
    gripper = np.array(data.site_xpos[robot.eef_site_id])
    fingers = np.array([data.qpos[index] for index in robot._ref_gripper_joint_pos_indexes])
    conditions = domain.parsed_problem["goal_state"]
    subjects = [_position(domain, condition[1]) for condition in conditions]
    distances = [
        np.linalg.norm(subject - _position(domain, condition[2])) if len(condition) > 2 else 0.0
        for subject, condition in zip(subjects, conditions, strict=True)
    ]
    bodies = {name: domain.obj_body_id[name] for name in domain.objects_dict}
    return {
        **{f"pose_{name}": np.concatenate([data.body_xpos[b], data.body_xquat[b]]) for name, b in bodies.items()},
        "gripper_position": gripper,
        "gripper_opening": np.asarray(np.abs(fingers).sum()),
        "goal_reached": np.array([float(domain._eval_predicate(condition)) for condition in conditions]),
        "gripper_distance": np.array([np.linalg.norm(subject - gripper) for subject in subjects]),
        "goal_distance": np.array(distances, np.float64),
    }


def _position(domain: Any, name: str) -> np.ndarray:
    return np.array(domain.object_states_dict[name].get_geom_state()["pos"])


class LiftWatch:
    """Follows the heights of all movable objects from the moment that it is made.

    Attributes:
        first: the first object that rose by `LIFTED`; None as long as none did. Of several in one step, the one that rose most.
    """

    def __init__(self, domain: Any):
        self.first: str | None = None
        self._data = domain.sim.data
        self._names = tuple(domain.objects_dict)
        self._bodies = np.array([domain.obj_body_id[name] for name in self._names], int)
        self._start = self._heights()

    def look(self) -> None:
        """Takes the present moment into account."""
        if self.first is None and self._names:
            rise = self._heights() - self._start
            highest = int(rise.argmax())
            if rise[highest] >= LIFTED:
                self.first = self._names[highest]

    def _heights(self) -> np.ndarray:
        return np.array(self._data.body_xpos[self._bodies, 2])
