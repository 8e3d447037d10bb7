"""The ALOHA platform's two arms: fourteen numbers out, up to three cameras in.

Facts are the reference's (openpi, policies/aloha_policy.py, training/config.py):

1. State and action are [left arm (6 joints, radians), left gripper, right arm (6), right gripper].
2. pi0 was pre-trained in another convention: joints 1, 2 of each arm (from 0) turn the other way, and its grippers are angles.
   Trossen's driver gives the gripper's state as a linear opening from 0 to 1, but takes its command as an angle from 0 to 1.
   So the state's conversion and the action's are two different functions.
3. A simulated ALOHA is trained in its own convention instead: `Aloha(adapt_to_pi=False)`.
4. Images come with channels first under `images`. `cam_low` may be sent and is not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vlascope_server.robots.contract import Conventions, Reading, RobotInputError, RobotSpec, bool_mask
from vlascope_server.robots.fields import take, take_image, take_prompt, take_vector

_CAMERAS = {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist"}
_SIGNS = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
_GRIPPERS = [6, 13]

_OPENING_METRES = (0.01844, 0.05800)
"""Positions of the fingers, closed and open (ALOHA's PUPPET_GRIPPER_POSITION)."""
_ARM_METRES, _HORN_METRES = 0.036, 0.022
"""Lengths in the linkage between the gripper's motor and its fingers (Interbotix's driver)."""
_PI_RADIANS = (0.5476, 1.6296)
"""The gripper's motor in pi0's data, closed and open: encoder counts 2405 and 3110 of 4096, zero at 2048."""
_COMMAND_RADIANS = (-0.6213, 1.4910)
"""The gripper's command, closed and open (ALOHA's PUPPET_GRIPPER_JOINT)."""


@dataclasses.dataclass(frozen=True)
class Aloha:
    """Observation keys: `images` (a map of `cam_high`, `cam_left_wrist`, `cam_right_wrist`), `state`, `prompt`.

    Attributes:
        cameras: the model's slots that this set-up has.
        adapt_to_pi: converts between the driver's conventions and those of pi0's pre-training (fact 2).
    """

    cameras: tuple[str, ...] = tuple(_CAMERAS)
    adapt_to_pi: bool = True

    def __post_init__(self):
        if unknown := sorted(set(self.cameras) - set(_CAMERAS)):
            raise RobotInputError("cameras", f"aloha has no {unknown[0]!r}; allowed are {list(_CAMERAS)}")

    @property
    def spec(self) -> RobotSpec:
        """Cameras as configured."""
        cameras = {slot: f"images/{key}" for slot, key in _CAMERAS.items() if slot in self.cameras}
        mask = bool_mask(6, -1, 6, -1)
        return RobotSpec("aloha", cameras, state_dim=14, action_dim=14, gripper="0 closed, 1 open", delta_mask=mask)

    def conventions(self, *, pi05: bool) -> Conventions:
        """Z-score for pi0, quantiles for pi0.5; joints relative to the state, grippers not, for both."""
        return Conventions("quantile" if pi05 else "zscore", delta_actions=True)

    def read(self, observation: Mapping[str, Any]) -> Reading:
        """Checks an observation and takes out what the model sees."""
        images = take(observation, "images")
        state = take_vector(observation, "state", 14)
        if self.adapt_to_pi:
            state = _convert(state, _gripper_opening_to_pi)
        return Reading(
            images={slot: take_image(images, _CAMERAS[slot], inside="images/") for slot in self.spec.cameras},
            state=state,
            prompt=take_prompt(observation),
        )

    def actions_to_model(self, actions: Float[np.ndarray, "*lead 14"]) -> Float[np.ndarray, "*lead 14"]:
        """Commands in pi0's convention."""
        return _convert(actions, _gripper_command_to_pi) if self.adapt_to_pi else actions

    def actions_from_model(self, actions: Float[np.ndarray, "*lead 14"]) -> Float[np.ndarray, "*lead 14"]:
        """Commands in the driver's convention."""
        return _convert(actions, _gripper_pi_to_command) if self.adapt_to_pi else actions


def _convert(x: Float[np.ndarray, "*lead 14"], gripper: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    out = _SIGNS * x
    out[..., _GRIPPERS] = gripper(out[..., _GRIPPERS])
    return out


def _gripper_opening_to_pi(share: np.ndarray) -> np.ndarray:
    """Linear opening in [0, 1] -> motor angle in [0, 1], through the linkage's geometry (law of cosines)."""
    metres = _from_unit(share, _OPENING_METRES)
    sine = (_HORN_METRES**2 + metres**2 - _ARM_METRES**2) / (2 * _HORN_METRES * metres)
    return _to_unit(np.arcsin(np.clip(sine, -1.0, 1.0)), _PI_RADIANS)


def _gripper_pi_to_command(angle: np.ndarray) -> np.ndarray:
    """pi0 predicts the motor's angle in radians from the closed position, not as a share of its range."""
    return _to_unit(angle + _PI_RADIANS[0], _COMMAND_RADIANS)


def _gripper_command_to_pi(share: np.ndarray) -> np.ndarray:
    return _from_unit(share, _COMMAND_RADIANS) - _PI_RADIANS[0]


def _to_unit(x: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    low, high = interval
    return (x - low) / (high - low)


def _from_unit(x: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    low, high = interval
    return x * (high - low) + low
