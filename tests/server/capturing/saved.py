"""Saved observations whose every number follows from its place, written by what rollouts write them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from vlascope_sim.environment.libero import SensorReadings
from vlascope_sim.rollout.observations import Inference, ObservationsFile

CAMPAIGN = "first-20261127T120000-abcdef"
INSTRUCTION = "pick up the milk and place it in the basket"
REPLAN, CAPTURE_EVERY = 5, 10
SPEC = {"experts": ["vlm"], "layers": [0, 3], "spans": ["text"], "reduction": "mean"}


def readings(episode: int, inference: int, size: int = 64, width: int = 8) -> SensorReadings:
    rng = np.random.default_rng([episode, inference])
    image, wrist = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    return SensorReadings(image, wrist, rng.standard_normal(width))


def about(episode: int, **changed: Any) -> dict[str, Any]:
    """What a rollout says beside the observations."""
    name = f"libero_object-task03-episode{episode:03d}"
    return {
        "robot": "libero",
        "prompt": INSTRUCTION,
        "episode": {
            "id": f"{CAMPAIGN}+{name}", "suite": "libero_object", "task_id": 3, "task_name": "pick_up_the_milk",
            "task_instruction": INSTRUCTION, "episode_index": episode, "init_state": episode, "seed": 77,
            "metadata": {"prompt_mode": "task", "told_object": "milk_1", "told_goal": None, "versions": {"numpy": "2"}},
        },
        "capture_spec": SPEC,
        "policy": {"checkpoint": "tiny", "fingerprint": "0123456789abcdef", "denoise_steps": 10, "deterministic": True},
        "ended": {"success": episode % 2 == 0, "total_steps": 23, "metadata": {"lifted_first": None, "inferences": 5}},
        "stored": {"run": "20261127T120000-tiny", "store_attempt": 1, "frames": 3, "dropped": 0},
        **changed,
    }  # fmt: skip


def save(
    folder: Path,
    episode: int,
    inferences: int = 5,
    *,
    captured: bool = True,
    size: int = 64,
    width: int = 8,
    **changed: Any,
) -> Path:
    """One episode's file in the folder of a campaign; `changed` is of `about`."""
    gathered = ObservationsFile()
    for number in range(inferences):
        timestep = REPLAN * number
        inference = Inference(timestep, 1000 * episode + number, captured and timestep % CAPTURE_EVERY == 0)
        annotations = {"goal_distance": np.array([0.1 * number]), "gripper_opening": np.asarray(0.01 * number)}
        gathered.saw(inference, readings(episode, number, size, width), annotations)
        gathered.did(np.zeros(7, np.float32))
    told = about(episode, **changed)
    (folder / "observations").mkdir(parents=True, exist_ok=True)
    path = folder / "observations" / f"{told['episode']['id'].partition('+')[2]}.npz"
    gathered.write(path, told)
    return path
