"""Episodes as an analysis counts them: which frames are theirs, what they were told, and from which scene they begin.

Axis letters, here and in the whole folder: N frames, U episodes, C instructions, R labellings (the true one, then
permutations).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from vlascope_analysis.errors import AnalysisError


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The episodes of some frames.

    Attributes:
        of_frame: int [N] the episode of each frame, as a number from 0.
        label: int [U] what the policy was told in it, as a number of an instruction.
        scene: int [U] the scene that it begins from, as a number from 0. Episodes of one scene resemble each other.
        table: one row an episode, the first of its frames: the columns of `Features.frames`.
    """

    of_frame: np.ndarray
    label: np.ndarray
    scene: np.ndarray
    table: pd.DataFrame

    @classmethod
    def of(cls, frames: pd.DataFrame, label: np.ndarray) -> Episodes:
        """Counts the episodes of frames (`Features.frames`, with the instruction of each, int [N]).

        Raises:
            AnalysisError: an episode was told two things.
        """
        of_frame, _ = pd.factorize(pd.MultiIndex.from_arrays([frames["run"], frames["episode"]]))
        _, first = np.unique(of_frame, return_index=True)
        if not np.array_equal(label[first][of_frame], label):
            raise AnalysisError("an episode carries two instructions: each must have one")
        table = frames.iloc[first].reset_index(drop=True)
        scene, _ = pd.factorize(table["scene"])
        return cls(of_frame, label[first], scene, table)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def scenes(self) -> int:
        """How many scenes there are."""
        return len(np.unique(self.scene))


def unit_weights(units: np.ndarray) -> np.ndarray:
    """1 / episodes of the unit, float64 [U], so that scenes count alike however many episodes begin from them."""
    _, place = np.unique(units, return_inverse=True)
    return 1 / np.bincount(place)[place]


def frame_weights(of_frame: np.ndarray) -> np.ndarray:
    """1 / frames of the episode, float64 [N], so that episodes count alike however many frames they have."""
    return 1 / np.bincount(of_frame)[of_frame]
