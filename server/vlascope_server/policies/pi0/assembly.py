"""What a checkpoint needs to read a robot and to move it: robot, conventions, cameras, tokenizer, dtype.

Serving and training both choose these here, so that a policy is served as it was trained.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from vlascope_server.checkpoints import Checkpoint, CheckpointError
from vlascope_server.prompts import Tokenizer, TokenizerError, paligemma_tokenizer
from vlascope_server.robots import ROBOTS, Aloha, Conventions, RobotIO

Dtype = Literal["float32", "bfloat16"]


def find_robot(name: str, checkpoint: Checkpoint, asked: str | None) -> RobotIO:
    """The robot asked for, else the checkpoint's.

    Raises:
        CheckpointError: nobody says, or it is not known; names the checkpoint by `name`.
    """
    robot = asked or checkpoint.record.robot
    if robot is None:
        raise CheckpointError(
            f"{name}: does not say whose observations it reads", f"name the <robot>, one of {', '.join(ROBOTS)}"
        )
    if robot not in ROBOTS:
        raise CheckpointError(f"{name}: robot {robot!r} is not known", f"name one of {', '.join(ROBOTS)} as <robot>")
    found = ROBOTS[robot]
    if isinstance(found, Aloha) and (checkpoint.record.normalisation or "").startswith("lerobot"):
        # LeRobot's port hands joints and grippers to the model as the driver gives them
        return dataclasses.replace(found, adapt_to_pi=False)
    return found


def missing_statistics(name: str, checkpoint: Checkpoint) -> CheckpointError:
    """Why a checkpoint has none to normalise with: there are none, or several and nobody chose."""
    if checkpoint.asset_ids:
        return CheckpointError(
            f"{name}: has the statistics of {', '.join(checkpoint.asset_ids)}", "choose with <asset_id>"
        )
    return CheckpointError(
        f"{name}: has no statistics to normalise states and actions with; expected a norm_stats.json beside the"
        " parameters or at assets/<id>/, or LeRobot's processors: put that of the training data there"
    )


def find_conventions(checkpoint: Checkpoint, robot: RobotIO, delta_actions: bool | None = None) -> Conventions:
    """How state and actions are presented: as asked, else as the checkpoint says, else as is usual for the robot."""
    usual, record = robot.conventions(pi05=checkpoint.config.pi05), checkpoint.record
    told = record.delta_actions if delta_actions is None else delta_actions
    return Conventions(record.normalisation or usual.normalisation, usual.delta_actions if told is None else told)


def find_cameras(name: str, checkpoint: Checkpoint, robot: RobotIO) -> tuple[str, ...]:
    """The robot's cameras, in the model's order.

    Raises:
        CheckpointError: the model lacks one of them.
    """
    cameras = tuple(camera for camera in checkpoint.config.cameras if camera in robot.spec.cameras)
    if set(cameras) != set(robot.spec.cameras):
        raise CheckpointError(
            f"{name}: sees the cameras {list(checkpoint.config.cameras)}, and robot {robot.spec.name} has"
            f" {list(robot.spec.cameras)}",
            "name another <robot>, or correct 'cameras' in a vlascope.json beside the parameters",
        )
    return cameras


def find_tokenizer(name: str, checkpoint: Checkpoint, asked: Path | None = None) -> Tokenizer:
    """The tokenizer asked for, else the checkpoint's, else PaliGemma's.

    Raises:
        CheckpointError: it cannot be read or fetched, or has more tokens than the model.
    """
    path, state_dim = asked or checkpoint.tokenizer, checkpoint.record.prompt_state_dim
    try:
        tokenizer = paligemma_tokenizer(state_dim) if path is None else Tokenizer(path, state_dim)
        tokenizer.check_fits(checkpoint.config.vocabulary)
    except TokenizerError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return tokenizer


def find_dtype(asked: Literal["auto", "float32", "bfloat16"]) -> Dtype:
    """`auto` is bfloat16, as the reference serves, where the hardware has it: not on a CPU."""
    if asked != "auto":
        return asked
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
