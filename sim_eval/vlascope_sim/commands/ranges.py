"""Whole numbers as people write them: `0-9` (inclusive), `0,3,5`, `0-2,7`. Knows nothing of what they count."""

from __future__ import annotations

import re

from vlascope_sim.rollout.errors import RolloutError


def parse_numbers(text: str, name: str) -> tuple[int, ...]:
    """The numbers in the order written, each once.

    Raises:
        RolloutError: the text is no such list; the message names the option.
    """
    numbers: list[int] = []
    for part in text.replace(" ", "").split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found:
            raise RolloutError(f"{name} {text!r}: expected numbers such as 0-9 (inclusive) or 0,3,5")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if last < first:
            raise RolloutError(f"{name} {text!r}: {part} runs backwards; write {last}-{first}")
        numbers += range(first, last + 1)
    return tuple(dict.fromkeys(numbers))
