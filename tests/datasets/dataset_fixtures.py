"""Tiny datasets whose every number follows from its place. Knows nothing of any test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from vlascope_datasets import DatasetWriter

FPS = 10
HEIGHT, WIDTH = 32, 48
FEATURES = {
    "image": {"dtype": "image", "shape": (HEIGHT, WIDTH, 3)},
    "state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": (2,)},
    "reward": {"dtype": "float32", "shape": (1,)},
    "done": {"dtype": "bool", "shape": (1,)},
    "pose": {"dtype": "float64", "shape": (2, 3)},
    "note": {"dtype": "string", "shape": (1,)},
}
TASKS = ("push the block to the left", "push the block to the right")


def length(episode: int) -> int:
    return 5 + episode % 3


def level(episode: int, frame: int) -> int:
    """The grey level of an image: steps that video compression cannot blur into each other."""
    return 10 + (episode * 29 + frame * 13) % 220


def image(episode: int, frame: int) -> np.ndarray:
    """Grey, with a brighter block that moves."""
    picture = np.full((HEIGHT, WIDTH, 3), level(episode, frame), np.uint8)
    picture[:8, 4 * (frame % 8) : 4 * (frame % 8) + 8] = 255
    return picture


def frames(episode: int) -> dict[str, np.ndarray]:
    n = length(episode)
    at = np.arange(n)
    return {
        "state": (episode + at[:, None] / 8 + np.arange(3)).astype(np.float32),
        "action": (100 * episode + at[:, None] + np.array([0, 0.5])).astype(np.float32),
        "reward": (at == n - 1).astype(np.float32),
        "done": at == n - 1,
        "pose": at[:, None, None] + np.arange(6.0).reshape(2, 3),
        "note": np.array([f"{episode}/{frame}" for frame in at], object),
    }


def task(episode: int) -> str:
    return TASKS[episode % 2]


def add(writer: DatasetWriter, episode: int) -> int:
    images = (image(episode, frame) for frame in range(length(episode)))
    return writer.add_episode(frames(episode), {"image": images}, task(episode))


def write(path: Path, version: str, *, video: bool = False, episodes: int = 4, **options) -> Path:
    with DatasetWriter.create(path, FPS, FEATURES, "panda", version, video=video, **options) as writer:
        for episode in range(episodes):
            add(writer, episode)
    return path


def one_line(error, *parts) -> None:
    """An error's message is one line and names all of `parts`."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
