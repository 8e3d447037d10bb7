"""Which way an instruction or a file's name says that the robot goes. Knows nothing of episodes."""

from __future__ import annotations

import re

_WORDS = {
    "left": ("left", "leftward", "leftwards"),
    "right": ("right", "rightward", "rightwards"),
    "up": ("up", "upward", "upwards"),
    "down": ("down", "downward", "downwards"),
    "forward": ("forward", "forwards"),
    "backward": ("backward", "backwards"),
    "horizontal": ("horizontal", "horizontally", "horiz", "hori"),
    "vertical": ("vertical", "vertically", "vert"),
    "clockwise": ("clockwise", "cw"),
    "counterclockwise": ("counterclockwise", "anticlockwise", "ccw"),
}
_KNOWN = {word: direction for direction, words in _WORDS.items() for word in words}
# `pick up` and `put down` say what is done, not where to
_IDIOMS = re.compile(r"\b(pick|picks|picking|lift|lay|laying|put|set|sit|stand|turn)(\s+(it|them))?\s+(up|down)\b")


def direction_of(*texts: str) -> str:
    """The directions in the first text that has any, in the order in which they are said, such as `horizontal left`.

    Args:
        texts: an instruction, then perhaps a file's name.

    Returns:
        Empty where there are none.
    """
    for text in texts:
        words = re.findall(r"[a-z]+", _IDIOMS.sub(" ", re.sub(r"[_\-.]", " ", text.lower())))
        found = dict.fromkeys(_KNOWN[word] for word in words if word in _KNOWN)
        if found:
            return " ".join(found)
    return ""
