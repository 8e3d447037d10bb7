"""Text of others on a terminal. Knows nothing of where it was stored."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""One line of `text` that a terminal only shows, and never obeys: whatever is no visible character or space, such as an
    escape, a line's end or a change of the reading direction, becomes its escape in Python (`\x1b`).
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(text))
