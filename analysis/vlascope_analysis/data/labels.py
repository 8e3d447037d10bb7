"""What a probe is to predict: the embedding of what the policy was told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from vlascope_base.text import printable

from vlascope_analysis.errors import AnalysisError


@dataclasses.dataclass(frozen=True)
class InstructionLabels:
    """The instructions that policies were told in some frames: each text is one class.

    Attributes:
        instructions: each text once; those that are a task's own first, in order of suite and task id. An empty one is an
            instruction too: the policy was told nothing.
        task_ids: of the task whose own words each of them is, the first where there are several; None where no task among
            the frames is known to have these words.
        embeddings: float32 [C, E], each of length 1.
        index: int [N] what was told in each frame, as a number into `instructions`.
        warnings: what the reader should know.
    """

    instructions: tuple[str, ...]
    task_ids: tuple[int | None, ...]
    embeddings: np.ndarray
    index: np.ndarray
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.instructions)


def instruction_labels(frames: pd.DataFrame, encode: Callable[[Sequence[str]], np.ndarray]) -> InstructionLabels:
    """Labels of frames (`Features.frames`) by what the policy was told; `encode` turns texts into float [texts, E].

    Where a store does not say what was told, the task's name stands in, underscores as spaces, with a warning.

    Raises:
        AnalysisError: an episode has neither.
    """
    unknown = frames["instruction"].isna().to_numpy()
    names = frames["task_name"].astype(str).str.replace("_", " ").to_numpy(dtype=object)
    warnings = []
    if unknown.any():
        if (nameless := unknown & (names == "")).any():
            episode = frames["episode"].iloc[int(np.flatnonzero(nameless)[0])]
            raise AnalysisError(f"episode {episode}: neither an instruction nor a task name: nothing to predict")
        warnings.append(
            f"{int(unknown.sum())} frames of which the store does not say what the policy was told: the task's name stands in"
        )
    text = np.where(unknown, names, frames["instruction"].to_numpy(dtype=object))
    owners = _owners(frames)
    instructions = tuple(sorted(set(text), key=lambda told: (told not in owners, owners.get(told), told)))
    if len(frames.drop_duplicates(["suite", "task_id"])) > len(instructions):
        warnings.append("tasks whose episodes were told the same count as one: their labels are the same")
    embeddings = np.asarray(encode(instructions), np.float32)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    lookup = {instruction: number for number, instruction in enumerate(instructions)}
    index = np.array([lookup[told] for told in text], np.int64)
    task_ids = tuple(owners[told][1] if told in owners else None for told in instructions)
    return InstructionLabels(instructions, task_ids, embeddings, index, tuple(warnings))


def in_words(instruction: str) -> str:
    """An instruction for people: an empty one is named as such, and no character of it commands a terminal."""
    return printable(instruction) or "(no instruction)"


def _owners(frames: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Task instruction -> suite and id of the first task whose own words it is. Where the store does not say a task's words,
    or of which task an episode is, nothing else stands in: what was told may be any other task's.
    """
    known = frames.loc[frames["task_instruction"].notna() & (frames["task_id"] >= 0)]
    order = known.sort_values(["suite", "task_id"], kind="stable").drop_duplicates("task_instruction")
    return {row.task_instruction: (row.suite, int(row.task_id)) for row in order.itertuples()}  # pyright: ignore[reportAttributeAccessIssue]
