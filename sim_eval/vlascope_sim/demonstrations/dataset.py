"""Demonstrations as a LeRobot dataset, with the names that openpi's LIBERO dataset gives its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlascope_datasets import DatasetWriter

from vlascope_sim.demonstrations.episode import Frames
from vlascope_sim.environment.libero import CONTROL_HZ
from vlascope_sim.errors import SimulationError


def features(image_size: int) -> dict[str, dict[str, Any]]:
    """Of a dataset of demonstrations; cameras are lossless images."""
    picture = {"dtype": "image", "shape": (image_size, image_size, 3), "names": ["height", "width", "channel"]}
    state = ["x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_1", "finger_2"]
    target = {"dtype": "float32", "shape": (2,), "names": ["left", "top"]}
    actions = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    return {
        "image": picture,
        "wrist_image": picture,
        "state": {"dtype": "float32", "shape": (8,), "names": state},
        "actions": {"dtype": "float32", "shape": (7,), "names": actions},
        "action_mask": {"dtype": "bool", "shape": (1,), "names": None},
        "image_target": target,
        "wrist_image_target": target,
        "image_place": target,
        "wrist_image_place": target,
    }


def open_dataset(folder: Path, image_size: int, version: str, *, resume: bool) -> DatasetWriter:
    """A writer for a new dataset, or for one to go on with.

    Raises:
        vlascope_datasets.DatasetError: the folder holds something, or with `resume`, no dataset.
        SimulationError: the dataset to go on with is of another version, has other columns, or images of another size.
    """
    if not resume:
        return DatasetWriter.create(
            folder, fps=CONTROL_HZ, features=features(image_size), robot_type="panda", version=version
        )
    writer = DatasetWriter.resume(folder)
    if writer.info.version != version:
        writer.close()
        raise SimulationError(
            f"{folder}: dataset_version {version}: the dataset is {writer.info.version}; go on with that, or convert it"
        )
    found, wanted = writer.info.features, features(image_size)
    for name, feature in wanted.items():
        if name not in found or list(found[name]["shape"]) != list(feature["shape"]):
            shape = found[name]["shape"] if name in found else "no such column"
            writer.close()
            raise SimulationError(f"{folder}: {name}: expected shape {list(feature['shape'])}, found {shape}")
    return writer


def add(writer: DatasetWriter, frames: Frames, instruction: str) -> int:
    """Adds a demonstration; its number in the dataset."""
    return writer.add_episode(
        {
            "state": frames.state,
            "actions": frames.actions,
            "action_mask": frames.action_mask,
            "image_target": frames.image_target,
            "wrist_image_target": frames.wrist_image_target,
            "image_place": frames.image_place,
            "wrist_image_place": frames.wrist_image_place,
        },
        {"image": frames.image, "wrist_image": frames.wrist_image},
        task=instruction,
    )
