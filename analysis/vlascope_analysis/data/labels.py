"""What a probe is to predict: the embedding of what the policy was told."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from vlascope_base.text import printable

from vlascope_analysis.errors import AnalysisError

NEAR = 0.95
"""Cosine of two labels above which they are called nearly the same: well below the 0.99 from which a ridge probe is seen to
confuse two labels that features tell apart."""

_NAMED = 3
"""Examples that a warning gives."""


@dataclasses.dataclass(frozen=True)
class InstructionLabels:
    """The instructions that policies were told in some frames: each is one class.

    Attributes:
        instructions: each once, as it is spelled in most frames; those that are a task's own words first, in order of suite and
            task id. An empty one is an instruction too: the policy was told nothing.
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

    Texts of the same `wording` are one instruction, with a warning. Where a store does not say what was told, the task's name
    stands in, underscores as spaces, with a warning. Instructions whose embeddings are nearly the same are a warning too.

    Raises:
        AnalysisError: an episode has neither.
    """
    text, warnings = _told(frames)
    owners = _owners(frames)
    spellings: dict[str, Counter[str]] = {}
    for spelling, count in Counter(text).items():
        spellings.setdefault(wording(spelling), Counter())[spelling] = count
    # in order of suite and task id, then of their words
    wordings = sorted(spellings, key=lambda words: (words not in owners, owners.get(words), words))
    own = set(frames["task_instruction"].dropna())
    instructions = tuple(_shown(spellings[words], own) for words in wordings)
    if together := [" and ".join(map(_quoted, sorted(s))) for s in spellings.values() if len(s) > 1]:
        warnings.append(
            f"texts that differ in capitals or spaces alone are taken as one instruction: {_examples(together)}"
        )
    if len(frames.drop_duplicates(["suite", "task_id"])) > len(instructions):
        warnings.append("tasks whose episodes were told the same count as one: their labels are the same")
    embeddings = np.asarray(encode(instructions), np.float32)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if pairs := near_pairs(embeddings):
        near = [f"{_quoted(instructions[a])} and {_quoted(instructions[b])} ({cosine:.3f})" for a, b, cosine in pairs]
        warnings.append(
            f"instructions with nearly the same embedding (cosine above {NEAR}): a probe may take one for the other although "
            f"the features tell them apart: {_examples(near)}; --encoder onehot gives each instruction an axis of its own"
        )
    numbers = {words: number for number, words in enumerate(wordings)}
    lookup = {spelling: numbers[words] for words, found in spellings.items() for spelling in found}
    index = np.array([lookup[told] for told in text], np.int64)
    task_ids = tuple(owners[words][1] if words in owners else None for words in wordings)
    return InstructionLabels(instructions, task_ids, embeddings, index, tuple(warnings))


def in_words(instruction: str) -> str:
    """An instruction for people: an empty one is named as such, and no character of it commands a terminal."""
    return printable(instruction) or "(no instruction)"


def wording(text: str) -> str:
    """The words of a text, in small letters with single spaces between: equal for texts that are one instruction."""
    return " ".join(text.split()).casefold()


def near_pairs(embeddings: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of labels with a cosine above `NEAR`, the nearest pair first: the numbers of both, and their cosine.

    Args:
        embeddings: float32 [C, E], each of length 1.
    """
    cosine = embeddings @ embeddings.T
    first, second = np.nonzero(np.triu(cosine > NEAR, k=1))
    near = cosine[first, second]
    order = np.argsort(-near, kind="stable")
    return list(zip(first[order].tolist(), second[order].tolist(), near[order].tolist(), strict=True))


def _told(frames: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What was told in each frame, as it is spelled there, and warnings."""
    unknown = frames["instruction"].isna().to_numpy()
    names = frames["task_name"].astype(str).str.replace("_", " ")
    if (nameless := unknown & (names.str.strip() == "").to_numpy()).any():
        episode = frames["episode"].iloc[int(np.flatnonzero(nameless)[0])]
        raise AnalysisError(f"episode {episode}: neither an instruction nor a task name: nothing to predict")
    warnings = []
    if unknown.any():
        warnings.append(
            f"{int(unknown.sum())} frames of which the store does not say what the policy was told: the task's name stands in"
        )
    return frames["instruction"].where(~unknown, names).tolist(), warnings


def _owners(frames: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Wording of a task's instruction -> suite and id of the first task whose own words it is. Where the store does not say a
    task's words, or of which task an episode is, nothing else stands in: what was told may be any other task's.
    """
    known = frames.loc[frames["task_instruction"].notna() & (frames["task_id"] >= 0)]
    order = known.sort_values(["suite", "task_id"], kind="stable").drop_duplicates("task_instruction")
    owners: dict[str, tuple[str, int]] = {}
    for words, suite, task_id in zip(order["task_instruction"], order["suite"], order["task_id"], strict=True):
        owners.setdefault(wording(words), (suite, int(task_id)))
    return owners


def _shown(spellings: Mapping[str, int], own: set[str]) -> str:
    """The spelling of most frames; of two as frequent ones that of a task's own words, else the first in order."""
    shown = min(spellings, key=lambda spelling: (-spellings[spelling], spelling not in own, spelling))
    return shown if shown.strip() else ""


def _quoted(text: str) -> str:
    """A text in a warning, where an instruction may be a page long."""
    shown = printable(text)
    return f"'{shown if len(shown) <= 80 else shown[:79] + '…'}'"


def _examples(entries: Sequence[str]) -> str:
    more = f", and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    return "; ".join(entries[:_NAMED]) + more
