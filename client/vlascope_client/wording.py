"""Values of a peer as they are shown in a message for people: short, on one line, whatever they are."""

from __future__ import annotations

import reprlib
from typing import Any

_CHARACTERS = 80


class _Short(reprlib.Repr):
    """The standard library's short `repr`, which looks at the beginning of a value only, for bytes and arrays too."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = _CHARACTERS

    def repr_bytes(self, value: bytes, level: int) -> str:
        """The first bytes."""
        text = repr(value[:_CHARACTERS])
        return text if len(value) <= _CHARACTERS else f"{text} and {len(value) - _CHARACTERS} bytes more"

    def repr_ndarray(self, value: Any, level: int) -> str:
        """Never its numbers."""
        return f"array of {value.dtype} {list(value.shape)}"

    def repr_str_(self, value: Any, level: int) -> str:
        """A numpy text."""
        return self.repr_str(str(value), level)

    def repr_bytes_(self, value: Any, level: int) -> str:
        """A numpy byte string."""
        return self.repr_bytes(bytes(value), level)


_short = _Short()


def short(value: object) -> str:
    """`repr(value)` in at most 80 characters, in time and memory that do not depend on the size of `value`."""
    text = _short.repr(value)
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 3]}..."
