"""What a policy saw in an episode, as a file from which `vlascope-server capture` shows it the same again.

sim_eval/README.md documents the file. It is gathered in memory, 0.4 MB an observation at 256 pixels, and written whole at the
end: a disk that is full costs the file, never the episode.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.files import replacing

from vlascope_sim.environment.libero import SensorReadings

VERSION = 2
"""Of the file's format. Version 1 did not say so, and had neither prompt nor seeds."""

_KEYS = {"image": "observation/image", "wrist_image": "observation/wrist_image", "state": "observation/state"}
"""Field of `SensorReadings`, and array of the file -> the key under which a policy for LIBERO is sent it."""


def sent(seen: SensorReadings) -> dict[str, Any]:
    """Readings as a policy is sent them, by the keys of its robot. Nothing is resized on this side."""
    return {key: getattr(seen, name) for name, key in _KEYS.items()}


@dataclasses.dataclass(frozen=True)
class Inference:
    """One inference of an episode.

    Attributes:
        timestep: of the observation.
        seed: of the policy's noise.
        captured: the server was asked to keep hidden states of it.
    """

    timestep: int
    seed: int
    captured: bool


class ObservationsFile:
    """Gathers what a policy saw in an episode, and what it did."""

    def __init__(self):
        self._inferences: list[Inference] = []
        self._seen: list[SensorReadings] = []
        self._annotations: list[Mapping[str, np.ndarray]] = []
        self._actions: list[np.ndarray] = []

    def saw(self, inference: Inference, seen: SensorReadings, annotations: Mapping[str, np.ndarray] | None) -> None:
        """Keeps readings with pictures that the policy inferred on, and annotations of the same moment."""
        self._inferences.append(inference)
        self._seen.append(seen)
        self._annotations.append(annotations or {})

    def did(self, action: np.ndarray) -> None:
        """Keeps an action."""
        self._actions.append(action)

    def write(self, path: Path, about: Mapping[str, Any]) -> None:
        """Writes an NPZ file without pickles, whole or not at all.

        Args:
            path: of the file.
            about: JSON: what was told and sent beside the observations, and how the episode ended.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        arrays: dict[str, Any] = {
            "version": np.int64(VERSION),
            "timestep": np.array([inference.timestep for inference in self._inferences], np.int64),
            "seed": np.array([inference.seed for inference in self._inferences], np.int64),
            "captured": np.array([inference.captured for inference in self._inferences], bool),
            "actions": np.stack(self._actions),
        }
        arrays |= {name: np.stack([np.asarray(getattr(seen, name)) for seen in self._seen]) for name in _KEYS}
        for name in self._annotations[0]:
            arrays[f"annotations/{name}"] = np.stack([annotations[name] for annotations in self._annotations])
        # a name that is damaged in the archive's directory would be an array less
        held = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
        arrays["about"] = np.array(json.dumps({**about, "observation": _KEYS, "arrays": held}))
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
