"""Numbers as a person lists them on a command line: `0-9,12`."""

from __future__ import annotations

import re

from vlascope_datasets.errors import DatasetError


def listed_numbers(text: str, option: str) -> tuple[int, ...]:
    """Numbers that are listed one by one or as ranges, joined by commas; `0-9` is inclusive.

    Args:
        text: the list.
        option: that it is given with, for the message.

    Raises:
        DatasetError: it is no such list.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if any(not re.fullmatch("[0-9]{1,12}", n) for n in ((first, last) if dash else (first,))) or (
            dash and int(last) < int(first)
        ):
            raise DatasetError(f"{option}: {text!r}: expected numbers such as 0-9 (inclusive) or 0,3,5")
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)
