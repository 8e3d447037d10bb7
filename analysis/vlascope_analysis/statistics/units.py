"""Episodes as an analysis counts them: which frames are theirs, what label they have, in which scene and from which initial
state they begin.

Axis letters, here and in the whole folder: N frames, U episodes, C classes of the label, R labellings (the true one, then
permutations).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from vlascope_analysis.data.labels import Labels
from vlascope_analysis.data.questions import Question
from vlascope_analysis.errors import AnalysisError


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The episodes of some frames.

    Attributes:
        of_frame: int [N] the episode of each frame, as a number from 0.
        label: int [U] its class.
        scene: int [U] the scene that it takes place in (a task's layout of objects), as a number from 0; -1 where no task is
            known.
        init_state: int [U] the initial state of its scene that it begins from, as a number from 0 that no other scene has.
            Episodes of one initial state look alike.
        table: one row an episode, the first of its frames: the columns of `Features.frames`.
        names: of the classes.
        question: which label it is.
    """

    of_frame: np.ndarray
    label: np.ndarray
    scene: np.ndarray
    init_state: np.ndarray
    table: pd.DataFrame
    names: tuple[str, ...]
    question: Question

    @classmethod
    def of(cls, frames: pd.DataFrame, labels: Labels) -> Episodes:
        """Counts the episodes of frames (`Features.frames`), with their labels.

        Raises:
            AnalysisError: an episode has two classes.
        """
        of_frame, _ = pd.factorize(pd.MultiIndex.from_arrays([frames["run"], frames["episode"]]))
        _, first = np.unique(of_frame, return_index=True)
        label = labels.index
        if not np.array_equal(label[first][of_frame], label):
            raise AnalysisError(f"an episode carries two {labels.question.several}: each must have one")
        table = frames.iloc[first].reset_index(drop=True)
        scene, _ = pd.factorize(table["scene"])
        init_state, _ = pd.factorize(table["init_state"])
        return cls(of_frame, label[first], scene, init_state, table, labels.names, labels.question)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def init_states(self) -> int:
        """How many initial states there are."""
        return len(np.unique(self.init_state))


def unit_weights(units: np.ndarray) -> np.ndarray:
    """1 / episodes of the unit, float64 [U], so that units count alike however many episodes they have."""
    _, place = np.unique(units, return_inverse=True)
    return 1 / np.bincount(place)[place]


def frame_weights(of_frame: np.ndarray) -> np.ndarray:
    """1 / frames of the episode, float64 [N], so that episodes count alike however many frames they have."""
    return 1 / np.bincount(of_frame)[of_frame]
