"""The DROID platform's Franka arm: eight numbers out, two cameras in.

Facts are the reference's (openpi, policies/droid_policy.py, training/config.py):

1. The state is seven joint angles (radians) and the gripper (0 open, 1 closed), under two keys.
2. An action is seven joint velocities and the gripper's position: 0 open, 1 closed. A checkpoint trained on joint
   positions instead gives them relative to the state: `Conventions("quantile", delta_actions=True)`.
3. One exterior camera goes into the base slot, the wrist camera into the left wrist slot; the model has no third.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vlascope_server.robots.contract import Conventions, Reading, RobotSpec, bool_mask
from vlascope_server.robots.fields import take_image, take_prompt, take_vector

_SPEC = RobotSpec(
    name="droid",
    cameras={
        "base_0_rgb": "observation/exterior_image_1_left",
        "left_wrist_0_rgb": "observation/wrist_image_left",
    },
    state_dim=8,
    action_dim=8,
    gripper="0 open, 1 closed",
    delta_mask=bool_mask(7, -1),
)


@dataclasses.dataclass(frozen=True)
class Droid:
    """Keys: `observation/` with `exterior_image_1_left`, `wrist_image_left`, `joint_position`, `gripper_position`; `prompt`."""

    @property
    def spec(self) -> RobotSpec:
        """Two cameras of the model's three."""
        return _SPEC

    def conventions(self, *, pi05: bool) -> Conventions:
        """Z-score for pi0, quantiles for pi0.5; velocities are relative to nothing."""
        return Conventions("quantile" if pi05 else "zscore", delta_actions=False)

    def read(self, observation: Mapping[str, Any]) -> Reading:
        """Checks an observation and takes out what the model sees."""
        joints = take_vector(observation, "observation/joint_position", 7)
        gripper = take_vector(observation, "observation/gripper_position", 1)
        return Reading(
            images={slot: take_image(observation, key) for slot, key in self.spec.cameras.items()},
            state=np.concatenate([joints, gripper]),
            prompt=take_prompt(observation),
        )

    def actions_to_model(self, actions: Float[np.ndarray, "*lead 8"]) -> Float[np.ndarray, "*lead 8"]:
        """Unchanged."""
        return actions

    def actions_from_model(self, actions: Float[np.ndarray, "*lead 8"]) -> Float[np.ndarray, "*lead 8"]:
        """Unchanged."""
        return actions
