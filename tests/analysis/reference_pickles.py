"""Small pickles laid out as the reference lays out its own, with signals at positions that we decide."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LAYERS, TOKENS, WIDTH = 11, 816, 12
TEXT, SUFFIX = slice(768, 816), 51
LAYER_OF_TEXT, LAYER_OF_ACTION = 5, 10
"""Where the tokens of the prompt, and the action expert at its last denoise step, know the task; nothing else does."""

OBJECTS = ("cream cheese", "ketchup", "alphabet soup", "milk", "orange juice", "butter", "chocolate pudding", "tomato sauce",
           "salad dressing", "bbq sauce", "stove", "drawer", "wine bottle", "plate", "moka pot")  # fmt: skip


def name_of(task: int) -> str:
    """The task as part of the name of a file."""
    return f"use_the_{OBJECTS[task].replace(' ', '_')}"


def told(task: int) -> str:
    """What the policy was told."""
    return f"use the {OBJECTS[task]}"


def step(task: int, episode: int, timestep: int) -> dict:
    """One rollout step: noise, and what knows the task; two denoise steps."""
    rng = np.random.default_rng([task, episode, timestep])
    known = 2 * np.random.default_rng(task).standard_normal(WIDTH).astype(np.float32)
    vlm = rng.standard_normal((LAYERS, 1, TOKENS, WIDTH), np.float32)
    vlm[LAYER_OF_TEXT, :, TEXT] += known
    suffixes = rng.standard_normal((2, LAYERS, 1, SUFFIX, WIDTH), np.float32)
    suffixes[1, LAYER_OF_ACTION] += known
    return {
        "timestep": timestep,
        "action": [0.5] * 7,
        "action_expert_hidden_state_t0": {"hidden_states": suffixes[0]},
        "action_expert_hidden_state_t1": {"hidden_states": suffixes[1]},
        "vlm_layer_output": {"hidden_states": vlm},
        "observation": {"image": np.zeros((4, 4, 3), np.uint8)},
    }


def content(task: int, episodes: Sequence[int], timesteps: Sequence[int]) -> dict:
    """What the pickle of a task holds."""
    return {
        "task_name": name_of(task),
        "task_id": task,
        "task_description": told(task),
        "episodes": {
            f"episode_{episode}": {
                "rollout_steps": {f"step_{t}": step(task, episode, t) for t in timesteps},
                "metadata": {"success": True, "total_steps": 45},
            }
            for episode in episodes
        },
    }


def write_pickle(folder: Path, task: int, episodes: Sequence[int], timesteps: Sequence[int]) -> Path:
    """Writes `task_<id>_<name>.pkl`."""
    path = folder / f"task_{task}_{name_of(task)}.pkl"
    path.write_bytes(pickle.dumps(content(task, episodes, timesteps)))
    return path
