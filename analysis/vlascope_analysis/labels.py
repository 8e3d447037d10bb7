"""What a probe is to predict: the embedding of each frame's instruction. Knows nothing of features or encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from vlascope_analysis.errors import AnalysisError


@dataclasses.dataclass(frozen=True)
class TaskLabels:
    """The tasks among some frames. Tasks with one and the same instruction are one: their labels could not differ.

    Attributes:
        instructions: of each task, in order of suite and task id.
        numbers: of each task, the task id (of the first, where several share the instruction).
        embeddings: float32 [C, E], each of length 1.
        index: int [N] the task of each frame.
        warnings: what the reader should know.
    """

    instructions: tuple[str, ...]
    numbers: tuple[int, ...]
    embeddings: np.ndarray
    index: np.ndarray
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.instructions)


def task_labels(frames: pd.DataFrame, encode: Callable[[Sequence[str]], np.ndarray]) -> TaskLabels:
    """Labels of frames (`Features.frames`); `encode` turns texts into float [texts, E].

    Where an episode has no instruction, its task's name stands in, underscores as spaces.

    Raises:
        AnalysisError: an episode has neither.
    """
    text = frames["instruction"].astype(str).to_numpy(dtype=object)
    names = frames["task_name"].astype(str).str.replace("_", " ").to_numpy(dtype=object)
    warnings = []
    if (unnamed := text == "").any():
        if (text + names == "").any():
            episode = frames["episode"].iloc[int(np.flatnonzero(text + names == "")[0])]
            raise AnalysisError(f"episode {episode}: neither an instruction nor a task name: nothing to predict")
        warnings.append(f"{int(unnamed.sum())} frames without an instruction: the task's name stands in")
        text = np.where(unnamed, names, text)
    order = frames.assign(text=text).sort_values(["suite", "task_id"], kind="stable")
    firsts = order.drop_duplicates("text")
    if len(order.drop_duplicates(["suite", "task_id"])) > len(firsts):
        warnings.append("tasks that share an instruction count as one: their labels are the same")
    instructions = tuple(firsts["text"])
    embeddings = np.asarray(encode(instructions), np.float32)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    lookup = {instruction: number for number, instruction in enumerate(instructions)}
    index = np.array([lookup[t] for t in text], np.int64)
    return TaskLabels(instructions, tuple(int(n) for n in firsts["task_id"]), embeddings, index, tuple(warnings))
