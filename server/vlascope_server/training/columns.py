"""Which columns of a dataset hold what a robot observes and does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from vlascope_datasets import DatasetInfo

from vlascope_server.robots import RobotSpec
from vlascope_server.training.options import TrainingError

ACTIONS = "actions"
FOLLOWED, LABELLED = "action_mask", "label_mask"
"""Columns that need not be there. `action_mask` is false where something else than the label was done, so that later labels
of a chunk answer what nobody could foresee at its start; `label_mask` is false where the label itself is to be ignored."""

QUESTIONS = "target", "place"
"""Behind a camera's column and a `_`: where the told object is seen in it, and where it is to be brought, as shares of the side
from its left and top; -1 is nowhere."""

_STATE = {
    "libero": ("observation/state",),
    "aloha": ("state",),
    "droid": ("observation/joint_position", "observation/gripper_position"),
}
_USUAL = {
    "observation/image": ("image", "observation.images.image", "observation.images.agentview", "observation.image"),
    "observation/wrist_image": ("wrist_image", "observation.images.wrist_image", "observation.images.image2"),
    "observation/state": ("state", "observation.state"),
    "state": ("observation.state", "state"),
    "observation/exterior_image_1_left": ("exterior_image_1_left", "observation.images.exterior_1_left"),
    "observation/wrist_image_left": ("wrist_image_left", "observation.images.wrist_left"),
    "observation/joint_position": ("joint_position", "observation.state.joint_position"),
    "observation/gripper_position": ("gripper_position", "observation.state.gripper_position"),
    "images/cam_high": ("observation.images.cam_high", "cam_high"),
    "images/cam_left_wrist": ("observation.images.cam_left_wrist", "cam_left_wrist"),
    "images/cam_right_wrist": ("observation.images.cam_right_wrist", "cam_right_wrist"),
    ACTIONS: ("actions", "action"),
}
"""Observation key -> columns that hold it: as openpi's datasets and as LeRobot's name them."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """A robot's observation keys in a dataset.

    Attributes:
        cameras: model slot -> column.
        state: observation key -> column.
        actions: the column of actions.
        followed, labelled: columns of masks, where there are any.
        targets: one of `QUESTIONS` and model slot -> column of the answer, for those that have one.
    """

    cameras: Mapping[str, str]
    state: Mapping[str, str]
    actions: str
    followed: str | None
    labelled: str | None
    targets: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def observation(
        self, state: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], prompt: str
    ) -> dict[str, Any]:
        """As a client would send it: `state` and `images` by observation key; `images/x` is `x` inside of `images`."""
        observation: dict[str, Any] = {**state, "prompt": prompt}
        for key, image in images.items():
            folder, _, name = key.partition("/")
            if folder == "images":
                observation.setdefault(folder, {})[name] = image
            else:
                observation[key] = image
        return observation


def find_columns(info: DatasetInfo, where: str, spec: RobotSpec, told: Mapping[str, str]) -> Columns:
    """The columns of a robot.

    Args:
        info: of the dataset.
        where: the dataset, for messages.
        spec: of the robot.
        told: observation key -> column, where the usual names do not fit.

    Raises:
        TrainingError: a column is missing or of another width; names it and those that there are.
    """
    cameras, state = dict(spec.cameras), _STATE[spec.name]
    known = [*cameras.values(), *state, ACTIONS]
    if unknown := sorted(set(told) - set(known)):
        raise TrainingError(f"columns: {unknown[0]!r} is nothing that {spec.name} observes; allowed are {known}")

    def find(key: str, there: Sequence[str], kind: str) -> str:
        wanted = (told[key],) if key in told else (*_USUAL.get(key, ()), key)
        for column in wanted:
            if column in there:
                return column
        raise TrainingError(
            f"{where}: no {kind} for {key} of robot {spec.name}: looked for {', '.join(wanted)}; found"
            f" {', '.join(there) or 'none'}; name it with --columns {key} COLUMN"
        )

    numbers = [key for key in info.columns if info.features[key]["dtype"] != "string"]
    seen = {slot: find(key, info.camera_keys, "camera") for slot, key in cameras.items()}
    pairs = {column for column in info.columns if tuple(info.features[column]["shape"]) == (2,)}
    followed, labelled = (mask if mask in info.columns else None for mask in (FOLLOWED, LABELLED))
    found = Columns(
        seen,
        {key: find(key, numbers, "column") for key in state},
        find(ACTIONS, numbers, "column"),
        followed,
        labelled,
        {
            (question, slot): f"{column}_{question}"
            for question in QUESTIONS
            for slot, column in seen.items()
            if f"{column}_{question}" in pairs
        },
    )
    _check_width(info, where, spec, list(found.state.values()), spec.state_dim, "state")
    _check_width(info, where, spec, [found.actions], spec.action_dim, "an action")
    return found


def _check_width(
    info: DatasetInfo, where: str, spec: RobotSpec, columns: Sequence[str], expected: int, what: str
) -> None:
    widths = [info.features[column]["shape"] for column in columns]
    if any(len(shape) != 1 for shape in widths) or sum(shape[0] for shape in widths) != expected:
        raise TrainingError(
            f"{where}: {' and '.join(columns)}: {what} of robot {spec.name} has {expected} numbers, these have shape"
            f" {' and '.join(str(tuple(shape)) for shape in widths)}; is it another robot's dataset?"
        )
