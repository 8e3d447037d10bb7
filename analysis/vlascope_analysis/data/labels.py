"""What a probe is to predict: a vector for each class of a label, such as the embedding of what the policy was told."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from vlascope_base.text import printable

from vlascope_analysis.data.questions import INSTRUCTION, TEXTS, Question, question_of
from vlascope_analysis.errors import AnalysisError

NEAR = 0.95
"""Cosine of two labels above which they are called nearly the same: well below the 0.99 from which a ridge probe is seen to
confuse two labels that features tell apart."""

_NAMED = 3
"""Examples that a warning gives."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """The classes of a label in some frames, such as the instructions that policies were told.

    Attributes:
        names: of the classes, each once. Texts as they are spelled in most frames: those that are a task's own words first, in
            order of suite and task id; an empty one is a class too (the policy was told nothing). Other values in their order.
        task_ids: of the task whose own words each of them is, the first where there are several; None where no task among
            the frames is known to have these words.
        embeddings: float32 [C, E], each of length 1.
        index: int [N] the class of each frame, as a number into `names`.
        warnings: what the reader should know.
        question: which label it is, in words.
    """

    names: tuple[str, ...]
    task_ids: tuple[int | None, ...]
    embeddings: np.ndarray
    index: np.ndarray
    warnings: tuple[str, ...] = ()
    question: Question = INSTRUCTION

    def __len__(self) -> int:
        return len(self.names)

    def table(self) -> pd.DataFrame:
        """One row a class: `number`, `label` (its name), `task_id`."""
        found = pd.DataFrame({"number": range(len(self)), "label": self.names, "task_id": self.task_ids})
        return found.astype({"task_id": "Int64"})


def labels_of(frames: pd.DataFrame, label: str, encode: Callable[[Sequence[str]], np.ndarray]) -> Labels:
    """The label of frames (`Features.frames` of episodes that were chosen for it).

    Args:
        frames: one row a frame.
        label: its name.
        encode: texts to float [texts, E]; for the instruction and the task's instruction. Of any other label each value has an
            axis of its own.

    Raises:
        AnalysisError: an episode has neither an instruction nor a task's name.
    """
    if label == "instruction":
        return instruction_labels(frames, encode)
    question = question_of(label)
    if label in TEXTS:
        return _text_labels(frames, frames["value"].astype(str).tolist(), encode, [], question)
    values = frames["value"].tolist()
    # numbers by size, truth values and texts by their letters
    order = sorted(dict.fromkeys(values), key=lambda value: (isinstance(value, str), value))
    numbers = {value: number for number, value in enumerate(order)}
    return Labels(
        tuple(map(str, order)),
        (None,) * len(order),
        np.eye(len(order), dtype=np.float32),
        np.array([numbers[value] for value in values], np.int64),
        question=question,
    )


def instruction_labels(frames: pd.DataFrame, encode: Callable[[Sequence[str]], np.ndarray]) -> Labels:
    """Labels of frames (`Features.frames`) by what the policy was told; `encode` turns texts into float [texts, E].

    Texts of the same `wording` are one instruction, with a warning. Where a store does not say what was told, the task's name
    stands in, underscores as spaces, with a warning. Instructions whose embeddings are nearly the same are a warning too.

    Raises:
        AnalysisError: an episode has neither.
    """
    text, warnings = _told(frames)
    found = _text_labels(frames, text, encode, warnings, INSTRUCTION)
    if len(frames.drop_duplicates(["suite", "task_id"])) > len(found):
        warning = "tasks whose episodes were told the same count as one: their labels are the same"
        found = dataclasses.replace(found, warnings=(*found.warnings, warning))
    return found


def _text_labels(
    frames: pd.DataFrame,
    text: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
    warnings: list[str],
    question: Question,
) -> Labels:
    """The classes of texts, one a frame."""
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
            f"texts that differ in capitals or spaces alone are taken as one {question.one}: {_examples(together)}"
        )
    embeddings = np.asarray(encode(instructions), np.float32)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if pairs := near_pairs(embeddings):
        near = [f"{_quoted(instructions[a])} and {_quoted(instructions[b])} ({cosine:.3f})" for a, b, cosine in pairs]
        warnings.append(
            f"{question.several} with nearly the same embedding (cosine above {NEAR}): a probe may take one for the other "
            f"although the features tell them apart: {_examples(near)}; --encoder onehot gives each {question.one} "
            "an axis of its own"
        )
    numbers = {words: number for number, words in enumerate(wordings)}
    lookup = {spelling: numbers[words] for words, found in spellings.items() for spelling in found}
    index = np.array([lookup[told] for told in text], np.int64)
    task_ids = tuple(owners[words][1] if words in owners else None for words in wordings)
    return Labels(instructions, task_ids, embeddings, index, tuple(warnings), question)


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
