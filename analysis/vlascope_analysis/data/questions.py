"""What a probe is asked to predict, in words for people: a label is a fact of whole episodes, by its name in the store."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

from vlascope_base.text import printable

TEXTS = ("instruction", "task_instruction")
"""Labels whose values are sentences, of which a text encoder makes vectors. Any other label has an axis for each value."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A label in words.

    Attributes:
        label: its name, as `--label` takes it.
        it: what is predicted, with its article, as the subject of a sentence.
        one, several: what its values are called.
        meaning: what it says of an episode.
    """

    label: str
    it: str
    one: str
    several: str
    meaning: str


INSTRUCTION = Question("instruction", "the instruction", "instruction", "instructions", "what the policy was told")

_KNOWN = MappingProxyType(
    {
        question.label: question
        for question in (
            INSTRUCTION,
            Question(
                "task_instruction", "the task's instruction", "task's instruction", "tasks' instructions",
                "what the scene's own task says",
            ),
            Question(
                "told_object", "the told object", "told object", "told objects",
                "the object that the policy was told to take",
            ),
            Question(
                "lifted_first", "the object lifted first", "object lifted first", "objects lifted first",
                "the object that was lifted first",
            ),
            Question(
                "success", "the episode's success", "outcome", "outcomes", "whether the episode reached its goal",
            ),
        )
    }
)  # fmt: skip


def question_of(label: str) -> Question:
    """The words of a label; one that has none of its own is called by its name."""
    name = printable(label)
    own = Question(
        label, f"the label {name}", f"value of {name}", f"values of {name}", f"{name}, as the store keeps it"
    )
    return _KNOWN.get(label, own)
