"""What the simulator knows and a policy does not: poses, distances to the goal, the gripper. Knows nothing of cameras.

Positions are metres in the world's frame, quaternions are w, x, y, z. Names and shapes depend on the task alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np


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
