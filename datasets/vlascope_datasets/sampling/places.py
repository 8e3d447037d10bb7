"""Places in an episode, as people list them: percents of its length, or frames by number."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction

from vlascope_base.errors import OptionError
from vlascope_base.text import parse_numbers

from vlascope_datasets.errors import DatasetError

_MOST = 10_000
"""Frames of an episode: who wants more wants all of them."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One place.

    Attributes:
        text: as a plan writes it: `25%`, or `7`.
        value: percent from 0 to 100, or the number of a frame.
        percent: which of both.
    """

    text: str
    value: Fraction
    percent: bool

    def frame(self, length: int) -> int | None:
        """The frame of an episode of `length` frames, at least 1, that lies here; None where the episode ends before it.

        0% is the first frame and 100% the last. Between them it is the nearest frame, and of two that are equally near the
        earlier one.
        """
        if self.percent:
            return math.ceil(self.value * (length - 1) / 100 - Fraction(1, 2))
        return int(self.value) if self.value < length else None


def parse_places(text: str) -> tuple[Place, ...]:
    """Places, ascending: `0,25,50,75,100%` (a sign behind the last number, or behind every one), or frames: `0,5,10`, `0-9`.

    Raises:
        DatasetError: the text is no such list, a percent is above 100, or a place is given twice.
    """
    parts = text.replace(" ", "").split(",")
    places = _percents(text, parts) if "%" in text else _frames(text, parts)
    seen: dict[Fraction, Place] = {}
    for place in places:
        if place.value in seen:
            raise DatasetError(f"frames: {text!r}: {seen[place.value].text} is given twice")
        seen[place.value] = place
    return tuple(seen[value] for value in sorted(seen))


def _percents(text: str, parts: list[str]) -> list[Place]:
    signs = [part.endswith("%") for part in parts]
    if not signs[-1] or (any(signs[:-1]) and not all(signs)):
        raise DatasetError(
            f"frames: {text!r}: some numbers are percents and others are not; put the sign behind the last one, or behind every"
            " one"
        )
    places = []
    for part in parts:
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%?", part):
            raise DatasetError(f"frames: {text!r}: expected percents such as 0,25,50,75,100%, found {part!r}")
        if (value := Fraction(part.rstrip("%"))) > 100:
            raise DatasetError(f"frames: {text!r}: expected percents from 0 to 100, found {part.rstrip('%')}")
        places.append(Place(f"{float(value):g}%", value, percent=True))
    return places


def _frames(text: str, parts: list[str]) -> list[Place]:
    try:
        numbers = [number for part in parts for number in parse_numbers(part)]
    except OptionError:
        raise DatasetError(
            f"frames: {text!r}: expected percents such as 0,25,50,75,100%, or frames such as 0,5,10 or 0-9"
        ) from None
    if len(numbers) > _MOST:
        raise DatasetError(f"frames: {text!r}: expected at most {_MOST} frames of an episode, found {len(numbers)}")
    return [Place(str(number), Fraction(number), percent=False) for number in numbers]
