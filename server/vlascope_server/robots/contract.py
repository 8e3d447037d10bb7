"""What a robot must say of itself so that a policy can drive it: its cameras, its widths, and its own conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from vlascope_base import VlascopeError

Normalisation = Literal["zscore", "quantile", "lerobot_zscore", "lerobot_quantile"]
"""The formulas are in `arithmetic.py`: openpi's two, and LeRobot's, which differ in what keeps them from dividing by zero."""


class RobotInputError(VlascopeError):
    """A robot's observation, action or description that cannot be used.

    Attributes:
        field: the key that is wrong, as the client named it.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclasses.dataclass(frozen=True)
class RobotSpec:
    """What both ends of a connection must agree on; compare with `==` before work starts.

    Attributes:
        name: of the robot.
        cameras: the model's image slots that this robot fills, each with the observation key of its image. A slot that is
            not here is no part of the program: configure the model with `config.with_cameras(*spec.cameras)`.
        state_dim: numbers in a state.
        action_dim: numbers in an action.
        gripper: what the gripper's number in an action means.
        delta_mask: true for the action dimensions that are relative to the state, in checkpoints trained that way. State
            and action must stand in the same order there.
    """

    name: str
    cameras: Mapping[str, str]
    state_dim: int
    action_dim: int
    gripper: str
    delta_mask: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Conventions:
    """How a checkpoint's training data was prepared; belongs to the checkpoint, and each robot knows the usual one.

    Attributes:
        normalisation: `zscore`, or `quantile` (1 % and 99 % to -1 and 1), by the formula of openpi or of LeRobot.
        delta_actions: the model gives the actions of `RobotSpec.delta_mask` relative to the state.
    """

    normalisation: Normalisation
    delta_actions: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """One checked observation, in the conventions that the model was trained with.

    Attributes:
        images: model slot -> RGB pixels, of the camera's own size.
        state: in the data's units, not normalised, `spec.state_dim` wide.
        prompt: the instruction as the robot's user wrote it.
    """

    images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
    state: Float[np.ndarray, " s"]
    prompt: str


@runtime_checkable
class RobotIO(Protocol):
    """A robot. Methods leave their arguments as they are; arrays may have leading axes where `*lead` says so."""

    @property
    def spec(self) -> RobotSpec:
        """Cameras, widths and gripper."""
        ...

    def conventions(self, *, pi05: bool) -> Conventions:
        """How the reference's checkpoints for this robot were trained, of pi0 or of pi0.5."""
        ...

    def read(self, observation: Mapping[str, Any]) -> Reading:
        """Checks an observation as a client sends it, and takes out what the model sees.

        Raises:
            RobotInputError: a key is missing, or a value of the wrong shape, dtype or range; one line that names the key.
        """
        ...

    def actions_to_model(self, actions: Float[np.ndarray, "*lead a"]) -> Float[np.ndarray, "*lead a"]:
        """A dataset's actions in the conventions of `Reading.state`: what training needs."""
        ...

    def actions_from_model(self, actions: Float[np.ndarray, "*lead a"]) -> Float[np.ndarray, "*lead a"]:
        """The model's actions as the robot executes them; inverse of `actions_to_model`."""
        ...


def bool_mask(*runs: int) -> tuple[bool, ...]:
    """Runs of true (positive lengths) and false (negative): `bool_mask(6, -1)` is six times true, then false."""
    return tuple(run > 0 for run in runs for _ in range(abs(run)))
