"""What a policy saw in an episode, as an NPZ file. Knows nothing of policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlascope_sim.environment.libero import Observation


class ObservationsFile:
    """Gathers observations in memory (0.4 MB each at 256 pixels) and writes them at the end."""

    def __init__(self):
        self._seen: list[tuple[int, Observation]] = []
        self._actions: list[np.ndarray] = []

    def saw(self, timestep: int, observation: Observation) -> None:
        """Keeps an observation with pictures."""
        self._seen.append((timestep, observation))

    def did(self, action: np.ndarray) -> None:
        """Keeps an action."""
        self._actions.append(action)

    def write(self, path: Path) -> None:
        """Writes `timestep` [n], `image` and `wrist_image` [n, size, size, 3], `state` [n, 8], `actions` [steps, 7]."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                timestep=np.array([timestep for timestep, _ in self._seen]),
                image=np.stack([np.asarray(seen.image) for _, seen in self._seen]),
                wrist_image=np.stack([np.asarray(seen.wrist_image) for _, seen in self._seen]),
                state=np.stack([seen.state for _, seen in self._seen]),
                actions=np.stack(self._actions),
            )
        partial.replace(path)
