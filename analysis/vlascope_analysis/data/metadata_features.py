"""What is known of a frame without any hidden state, as features: what a probe of hidden states must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from vlascope_latents.store import LatentStore, NotCapturedError
from vlascope_latents.store.index import decode_value

from vlascope_analysis.data.episodes import Numbered
from vlascope_analysis.data.features import Slice, select_frames
from vlascope_analysis.options import FramesOf


def time_features(frames: pd.DataFrame) -> np.ndarray:
    """float32 [N, 2]: the timestep and its square. What a probe reads off them, it reads off time alone."""
    t = frames["timestep"].to_numpy(np.float32)
    return np.stack([t, t**2], axis=1)


def metadata_features(
    store: LatentStore, episodes: Sequence[Numbered], what: Slice, timesteps: Sequence[int] | None, frames: FramesOf
) -> Mapping[str, np.ndarray | None]:
    """By name, float32 [N, D] of the frames that `load_features` reads with the same arguments; None for what is not stored.

    `robot state` is what the policy saw of the robot (the stored `state`); `previous action` the first action of the chunk that
    was inferred in the captured frame before, and whether there is one.
    """
    selection, _ = select_frames(store, episodes, what, timesteps, frames)
    try:
        state = np.asarray(selection.values("state"), np.float32).reshape(len(selection), -1)
    except NotCapturedError:
        state = None
    actions: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for own in episodes:
        lines = own.episode.lines()
        known = [(line.timestep, line.values["actions"]) for line in lines if "actions" in line.values]
        first = [_first_action(decode_value(value)) for _, value in known]
        # of each timestep, the action of the one before
        actions[own.episode.run, own.episode.row.folder] = {
            timestep: action for (timestep, _), action in zip(known[1:], first[:-1], strict=True)
        }
    found = [
        actions[frame.episode.run, frame.episode.row.folder].get(frame.line.timestep) for frame in selection.frames
    ]
    width = max((len(action) for action in found if action is not None), default=0)
    previous = None
    if width:
        previous = np.zeros((len(found), width + 1), np.float32)
        for row, action in zip(previous, found, strict=True):
            if action is not None:
                row[: len(action)], row[-1] = action, 1
    return {"robot state": state, "previous action": previous}


def scene_features(frames: pd.DataFrame) -> np.ndarray | None:
    """float32 [N, scenes]: an axis for each scene; None where no task is known."""
    number, scenes = pd.factorize(frames["scene"])
    return None if (number < 0).any() else np.eye(len(scenes), dtype=np.float32)[number]


def _first_action(chunk: np.ndarray) -> np.ndarray:
    return np.asarray(chunk, np.float32).reshape(-1, chunk.shape[-1])[0] if chunk.ndim else chunk.reshape(1)
