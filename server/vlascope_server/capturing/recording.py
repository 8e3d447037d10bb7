"""What a capture is made of: recorded episodes, whatever they were recorded in, and the seeds of their inferences."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from vlascope_base.seeds import derive_seed
from vlascope_latents import CaptureSpec

from vlascope_server.robots import RobotSpec


@dataclasses.dataclass(frozen=True)
class RecordedEpisode:
    """An episode of which some frames are to be captured.

    Attributes:
        name: within the capture's campaign.
        instruction: what the policy is told.
        metadata: what else the store keeps of the episode from its beginning.
        success, total_steps, ended: how it ended, where that is known; `ended` is metadata that only the end told.
        rows: which of the recorded frames.
        timesteps: environment step of each.
        seeds: of each one's inference.
        content: digest of what was recorded.
    """

    name: str
    instruction: str
    metadata: Mapping[str, Any]
    success: bool | None
    total_steps: int | None
    ended: Mapping[str, Any]
    rows: tuple[int, ...]
    timesteps: tuple[int, ...]
    seeds: tuple[int, ...]
    content: str

    def __len__(self) -> int:
        """Frames."""
        return len(self.rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """One recorded frame.

    Attributes:
        observation: as a client sends it.
        annotations: name -> float32 array of the same moment, stored with the frame.
    """

    observation: Mapping[str, Any]
    annotations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Recording(Protocol):
    """Where episodes come from. Used by one thread at a time."""

    @property
    def episodes(self) -> Sequence[RecordedEpisode]:
        """The episodes to capture, in order; each has at least one frame."""
        ...

    @property
    def about(self) -> Mapping[str, object]:
        """Where they come from, as JSON that a run's metadata keep."""
        ...

    @property
    def capture_spec(self) -> CaptureSpec | None:
        """What was captured when they were recorded; None where that was nothing, or not the same of all."""
        ...

    @property
    def policies(self) -> Mapping[str, str]:
        """Fingerprint -> name of the policies that acted when they were recorded; empty where no policy did."""
        ...

    def check(self, robot: RobotSpec) -> None:
        """Raises `VlascopeError` where something is not of this robot; names the file."""
        ...

    def telling(self, episodes: Sequence[int]) -> Sequence[int]:
        """Of some episodes, those whose first frames tell whether a policy takes the frames of all."""
        ...

    def moments(self, episode: int, first: int, stop: int) -> list[Moment]:
        """Frames `first` to `stop` of those that are to be captured of an episode, by its place in `episodes`.

        Raises:
            VlascopeError: a file is missing or damaged.
        """
        ...

    def place(self, episode: int, frame: int) -> str:
        """Where a frame was recorded, for messages."""
        ...


def noise_seeds(seed: int, name: str, timesteps: Sequence[int]) -> tuple[int, ...]:
    """The seeds of an episode's inferences: each follows from `seed`, the episode's name and the timestep alone."""
    return tuple(derive_seed("capture", seed, name, timestep) for timestep in timesteps)


def told_otherwise(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's metadata where the policy is told other words: what depends on its own instruction is not known any more."""
    unknown = {key: None for key in ("told_object", "told_goal") if key in metadata}
    return {**metadata, **unknown, "prompt_mode": "given"}


def digest(value: object) -> str:
    """32 hex digits that are equal for equal JSON."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of(episodes: Sequence[RecordedEpisode]) -> str:
    """32 hex digits that are equal for equal episodes and frames, in the same order."""
    return digest([dataclasses.asdict(episode) for episode in episodes])
