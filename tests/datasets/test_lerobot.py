"""LeRobot itself reads what is written, where it is installed: 0.1 to 0.3 read v2.1, 0.4 reads v3.0."""

from __future__ import annotations

import importlib
import importlib.metadata

import numpy as np
import pytest

from tests.datasets.dataset_fixtures import FPS, frames, length, level, task, write

lerobot = pytest.importorskip("lerobot")


@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
def test_lerobot_reads_every_frame(video, tmp_path):
    try:
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except ImportError:
        module = importlib.import_module("lerobot.common.datasets.lerobot_dataset")
    newer = tuple(map(int, importlib.metadata.version("lerobot").split(".")[:2])) >= (0, 4)
    path = write(tmp_path / "it", "v3.0" if newer else "v2.1", video=video, episodes=3)
    ahead = [0, 1 / FPS, 2 / FPS]
    dataset = module.LeRobotDataset("local/it", root=path, video_backend="pyav", delta_timestamps={"action": ahead})
    assert len(dataset) == sum(map(length, range(3)))
    at = 0
    for episode in range(3):
        for frame in range(length(episode)):
            item, expected = dataset[at], frames(episode)
            last = length(episode) - 1
            np.testing.assert_array_equal(item["action"], expected["action"][[min(frame + k, last) for k in range(3)]])
            np.testing.assert_array_equal(item["state"], expected["state"][frame])
            assert item["task"] == task(episode)
            assert abs(float(np.median(item["image"])) * 255 - level(episode, frame)) <= 3
            at += 1
