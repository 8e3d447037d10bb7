"""An episode's frames told apart along time: by timestep, by the part of the episode, or by what happened.

Every window holds a frame of every episode that is kept, so that all windows are tested on the same episodes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from vlascope_base.text import listed
from vlascope_latents.store import LatentStore

from vlascope_analysis.data.episodes import Numbered
from vlascope_analysis.data.features import Slice, select_frames
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import Windows

GRIPPER_CLOSES = 0.0
"""The gripper's number of an action, its last one, is above this where it closes: LIBERO's convention (-1 open, 1 closed)."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Some frames of every kept episode.

    Attributes:
        name: for tables and figures: a timestep, a part (`0-25 %`), `before the grasp`.
        frames: int [n] numbers of frames.
    """

    name: str
    frames: np.ndarray


def make_windows(
    frames: pd.DataFrame, by: Windows | None, parts: int, grasping: np.ndarray | None = None
) -> tuple[list[Window], list[str]]:
    """The windows of frames (`Features.frames`), and warnings: episodes without a frame in every window are left out of all.

    Args:
        frames: one row a frame.
        by: how; one window with every frame unless told.
        parts: how many equal parts of an episode, for `fraction`.
        grasping: bool [N], for `grasp`: whether the gripper closes in a frame (`gripper_closes`).

    Raises:
        AnalysisError: no episode has a frame in every window; or episodes do not say how long they were.
    """
    if by is None:
        return [Window("all", np.arange(len(frames)))], []
    timestep = frames["timestep"].to_numpy()
    episode = pd.factorize(pd.MultiIndex.from_arrays([frames["run"], frames["episode"]]))[0]
    if by == "timestep":
        names = [str(t) for t in np.unique(timestep)]
        number = np.unique(timestep, return_inverse=True)[1]
    elif by == "fraction":
        if parts < 2:
            raise AnalysisError(f"--parts {parts}: expected at least 2")
        total = _lengths(frames, timestep, episode)
        number = np.minimum((timestep * parts / total).astype(np.int64), parts - 1)
        ends = [f"{100 * k / parts:.0f}" for k in range(parts + 1)]
        names = [f"{low}-{high} %" for low, high in itertools.pairwise(ends)]
    else:
        if grasping is None:
            raise ValueError("windows by grasp need to know where the gripper closes")
        first = np.full(episode.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, episode[grasping], timestep[grasping])
        number = (timestep >= first[episode]).astype(np.int64)
        names = ["before the grasp", "from the grasp on"]
    having = np.zeros((episode.max() + 1, len(names)), bool)
    having[episode, number] = True
    whole = np.asarray(having.all(axis=1))
    if not whole.any():
        lacking = [names[number] for number in np.flatnonzero(~having.any(axis=0))]
        more = f"; none has one {listed(lacking)}" if lacking else ""
        raise AnalysisError(f"--by {by}: no episode has a frame in every window ({listed(names)}){more}")
    kept = whole[episode]
    windows = [Window(name, np.flatnonzero(kept & (number == n))) for n, name in enumerate(names)]
    left_out = int((~whole).sum())
    return windows, [
        f"{left_out} of {len(whole)} episodes left out: they have no frame in some window ({listed(names)})"
    ] * bool(left_out)


def gripper_closes(
    store: LatentStore, episodes: Sequence[Numbered], what: Slice, timesteps: Sequence[int] | None
) -> np.ndarray:
    """Whether the first action of the chunk that was inferred in each frame closes the gripper, bool [N].

    Raises:
        NotCapturedError: a frame holds no `actions`.
    """
    selection, _ = select_frames(store, episodes, what, timesteps)
    actions = selection.values("actions")
    return actions.reshape(len(selection), -1, actions.shape[-1])[:, 0, -1] > GRIPPER_CLOSES


def _lengths(frames: pd.DataFrame, timestep: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Environment steps of each frame's episode: as the store says, else one past its last frame."""
    last = np.zeros(episode.max() + 1, np.int64)
    np.maximum.at(last, episode, timestep + 1)
    return np.maximum(frames["total_steps"].astype("float").fillna(0).to_numpy(), last[episode])
