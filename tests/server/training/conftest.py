"""A dataset that can be learnt and a model that learns it, both as small as they can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vlascope_datasets import DatasetWriter
from vlascope_server.presets import SEEDED
from vlascope_server.training.options import TrainOptions

from tests.server.small_models import small_config

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")
SMALL = small_config(vocabulary=1024, max_token_len=16, cameras=CAMERAS, action_dim=10)
TASKS = ("pick up the bowl", "open the drawer")
FEATURES = {
    "image": {"dtype": "image", "shape": (20, 16, 3)},
    "wrist_image": {"dtype": "image", "shape": (20, 16, 3)},
    "state": {"dtype": "float32", "shape": (8,)},
    "actions": {"dtype": "float32", "shape": (7,)},
    "label_mask": {"dtype": "bool", "shape": (1,)},
}
EPISODES, LENGTH = 8, 12


def episode(number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Actions that follow from state, brightness and task; three never move, one of them never at zero."""
    rng = np.random.default_rng(number)
    state = rng.uniform(-1, 1, (LENGTH, 8)).astype(np.float32)
    bright = rng.uniform(0, 1, LENGTH).astype(np.float32)
    actions = np.zeros((LENGTH, 7), np.float32)
    actions[:, 0] = 0.5 * state[:, 0]
    actions[:, 1] = bright - 0.5
    actions[:, 2] = 0.5 - number % 2
    actions[:, 4] = 0.1
    actions[:, 6] = np.where(np.arange(LENGTH) < LENGTH // 2, -1, 1)
    images = np.broadcast_to((255 * bright).astype(np.uint8)[:, None, None, None], (LENGTH, 20, 16, 3)).copy()
    mask = np.arange(LENGTH) % 4 != 3
    return {"state": state, "actions": actions, "label_mask": mask}, {"image": images, "wrist_image": images[::-1]}


def write_dataset(path: Path, change=lambda number, columns: None) -> Path:
    """The dataset, with `change` made to each episode's columns."""
    with DatasetWriter.create(path, 10, FEATURES, "panda") as writer:
        for number in range(EPISODES):
            columns, images = episode(number)
            change(number, columns)
            writer.add_episode(columns, images, TASKS[number % 2])
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "demos")


@pytest.fixture(scope="session", autouse=True)
def small_preset():
    """`small` is a policy with drawn weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEEDED, "small", SMALL)
        yield


@pytest.fixture
def options(dataset, tmp_path):
    """Makes options for a short run of the small model."""

    def make(**changes) -> TrainOptions:
        usual = {
            "dataset": dataset, "output": tmp_path / "run", "init": "small", "steps": 6, "batch_size": 8, "flow_samples": 2,
            "warmup": 2, "validation": 0.25, "validate_every": 4,
            "log_every": 1, "delta_actions": False, "save_every": 1000, "ema": 0.9,
        }  # fmt: skip
        return TrainOptions(**{**usual, **changes})

    return make
