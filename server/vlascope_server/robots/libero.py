"""The LIBERO simulation's Franka arm: seven numbers out, two cameras in.

Facts are the reference's (openpi, policies/libero_policy.py, training/config.py):

1. The state is the gripper's position (3, metres), its axis-angle rotation (3, radians) and the two fingers' joints (2).
2. An action is a relative pose command (6, scaled to [-1, 1]) and the gripper: -1 opens, +1 closes.
3. Images come upright: the client has turned the simulator's, which stand on their head, by 180 degrees. Left and right
   are exchanged by that, as in training.
4. There is no right wrist camera, and the model is built without one. The reference masks a black image instead.
5. Its pi0 checkpoints subtract the state from these actions, relative though they are; its pi0.5 checkpoint does not.
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
    name="libero",
    cameras={"base_0_rgb": "observation/image", "left_wrist_0_rgb": "observation/wrist_image"},
    state_dim=8,
    action_dim=7,
    gripper="-1 opens, +1 closes",
    delta_mask=bool_mask(6, -1),
)


@dataclasses.dataclass(frozen=True)
class Libero:
    """Observation keys: `observation/image`, `observation/wrist_image`, `observation/state`, `prompt`."""

    @property
    def spec(self) -> RobotSpec:
        """Two cameras of the model's three."""
        return _SPEC

    def conventions(self, *, pi05: bool) -> Conventions:
        """Z-score and pose relative to the state for pi0; quantiles and actions as they are for pi0.5."""
        return Conventions("quantile", delta_actions=False) if pi05 else Conventions("zscore", delta_actions=True)

    def read(self, observation: Mapping[str, Any]) -> Reading:
        """Checks an observation and takes out what the model sees."""
        return Reading(
            images={slot: take_image(observation, key) for slot, key in self.spec.cameras.items()},
            state=take_vector(observation, "observation/state", self.spec.state_dim),
            prompt=take_prompt(observation),
        )

    def actions_to_model(self, actions: Float[np.ndarray, "*lead 7"]) -> Float[np.ndarray, "*lead 7"]:
        """Unchanged."""
        return actions

    def actions_from_model(self, actions: Float[np.ndarray, "*lead 7"]) -> Float[np.ndarray, "*lead 7"]:
        """Unchanged."""
        return actions
