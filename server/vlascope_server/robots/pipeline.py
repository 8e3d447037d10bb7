"""Turns a robot's observation into what a model sees, and a model's actions into what the robot executes.

The order of steps is the reference's (openpi, training/config.py, policies/policy_config.py): the robot's own conventions,
relative actions, normalisation, resizing, padding. Tokens and batches come after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vlascope_server.robots.arithmetic import (
    held_by_float32,
    needs_quantiles,
    normalise,
    pad,
    quantiles,
    to_absolute,
    to_delta,
    unnormalise,
)
from vlascope_server.robots.contract import Conventions, RobotInputError, RobotIO
from vlascope_server.robots.images import resize_with_pad
from vlascope_server.robots.norm_stats import NormStats, NormStatsError


@dataclasses.dataclass(frozen=True, eq=False)
class NormalisedReading:
    """One observation as the model takes it, but for the batch axis and the prompt's tokens.

    Attributes:
        images: model slot -> RGB pixels of the model's size.
        state: normalised, zero-padded to the model's width; float64, to be cast as the model likes.
        prompt: the instruction.
        prompt_state: `state` before padding: what the text of a pi0.5 prompt holds.
        robot_state: the state before normalisation: what relative actions are relative to.
    """

    images: Mapping[str, UInt8[np.ndarray, "size size 3"]]
    state: Float[np.ndarray, " a"]
    prompt: str
    prompt_state: Float[np.ndarray, " s"]
    robot_state: Float[np.ndarray, " s"]


@dataclasses.dataclass(frozen=True, eq=False)
class RobotPipeline:
    """A robot, a checkpoint's statistics and conventions, and the model's sizes.

    Attributes:
        robot: who observes and acts.
        stats: of `state` and `actions`, as wide as the robot's or zero-padded to the model's width.
        conventions: how the checkpoint's data was prepared; usually `robot.conventions(pi05=...)`.
        action_dim: the model's width of state and actions.
        image_size: the model's, in pixels.

    Raises:
        NormStatsError: statistics are missing, of another width, or without the quantiles that are needed.
        RobotInputError: the robot is wider than the model.
    """

    robot: RobotIO
    stats: Mapping[str, NormStats]
    conventions: Conventions
    action_dim: int
    image_size: int

    def __post_init__(self):
        spec = self.robot.spec
        for key, width in (("state", spec.state_dim), ("actions", spec.action_dim)):
            if width > self.action_dim:
                raise RobotInputError(key, f"{spec.name} has {width} numbers, and the model only {self.action_dim}")
            if key not in self.stats:
                raise NormStatsError(f"norm stats: {key!r} is missing; found {sorted(self.stats)}")
            found = self.stats[key].width
            if found not in (width, self.action_dim):
                raise NormStatsError(
                    f"norm stats of {key}: expected {width} dimensions for {spec.name} (or {self.action_dim}, padded),"
                    f" found {found}; are they another robot's?"
                )
            if needs_quantiles(self.conventions.normalisation):
                quantiles(self.stats[key])

    def read(self, observation: Mapping[str, Any]) -> NormalisedReading:
        """What the model sees of one observation as a client sends it; the observation stays as it is.

        Raises:
            RobotInputError: it is not what the robot's `read` expects, or float32 cannot hold its state.
        """
        reading = self.robot.read(observation)
        state = normalise(reading.state, self.stats["state"], self.conventions.normalisation)
        held = held_by_float32(reading.state) & held_by_float32(state)
        if not held.all():
            number = int(np.argmin(held))
            raise RobotInputError(
                "state",
                f"number {number} is {reading.state[number]:.7g}; expected numbers that float32 holds, also once they are"
                " normalised",
            )
        return NormalisedReading(
            images={slot: resize_with_pad(image, self.image_size) for slot, image in reading.images.items()},
            state=pad(state, self.action_dim),
            prompt=reading.prompt,
            prompt_state=state,
            robot_state=reading.state,
        )

    def training_actions(
        self, actions: Float[np.ndarray, "*lead A r"], robot_state: Float[np.ndarray, "*lead s"]
    ) -> Float[np.ndarray, "*lead A a"]:
        """A dataset's chunk of actions as the model is to predict it; float64.

        Args:
            actions: in the robot's convention.
            robot_state: `NormalisedReading.robot_state` of the observation that the chunk starts from.

        Raises:
            RobotInputError: actions of another width than the robot's.
        """
        width = self.robot.spec.action_dim
        if actions.shape[-1] != width:
            raise RobotInputError("actions", f"expected {width} numbers each, found shape {actions.shape}")
        actions = to_delta(self.robot.actions_to_model(actions), robot_state, self._delta_mask)
        return pad(normalise(actions, self.stats["actions"], self.conventions.normalisation), self.action_dim)

    def robot_actions(
        self, actions: Float[np.ndarray, "A a"], robot_state: Float[np.ndarray, " s"]
    ) -> Float[np.ndarray, "A r"]:
        """The model's chunk of actions as the robot executes it; float64.

        Args:
            actions: as the model gives them, padding included.
            robot_state: `NormalisedReading.robot_state` of the observation that they answer. The reference recovers it from the
                normalised state instead, which differs by float32's rounding.
        """
        if actions.shape[-1] != self.action_dim:
            raise RobotInputError("actions", f"expected {self.action_dim} numbers each, found shape {actions.shape}")
        actions = unnormalise(actions, self.stats["actions"], self.conventions.normalisation)
        actions = actions[..., : self.robot.spec.action_dim]
        return self.robot.actions_from_model(to_absolute(actions, robot_state, self._delta_mask))

    @property
    def _delta_mask(self) -> tuple[bool, ...]:
        return self.robot.spec.delta_mask if self.conventions.delta_actions else ()
