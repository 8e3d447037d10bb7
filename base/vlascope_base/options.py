"""Fields and types that options of several commands share.

The options of a command are one frozen dataclass, which the code runs on and tyro reads: the string below a field is its help.
Modules that define options import no JAX, so that `--help` stays quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from vlascope_base.errors import OptionError
from vlascope_base.text import listed, parse_bytes, parse_numbers, readable_bytes

T = TypeVar("T")

LogLevel = Literal["debug", "info", "warning", "error"]
"""The names of the levels of logging."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """What every subcommand takes."""

    log_level: LogLevel = "info"
    """Least severe messages to show, on stderr."""


def _written(metavar: str, parse: Callable[[str], T], show: Callable[[T], str]) -> PrimitiveConstructorSpec[T]:
    """A value that is one word on the command line.

    Args:
        metavar: what the help calls it.
        parse: the value of a text; raises `OptionError`.
        show: a text of the value, for the help.
    """

    def read(words: list[str]) -> T:
        try:
            return parse(words[0])
        except OptionError as error:
            raise ValueError(str(error)) from None

    def is_instance(value: Any) -> bool:
        try:
            return parse(show(value)) == value
        except (OptionError, TypeError, ValueError):
            return False

    return PrimitiveConstructorSpec(
        nargs=1, metavar=metavar, instance_from_str=read, is_instance=is_instance, str_from_instance=lambda v: [show(v)]
    )


def _shown_numbers(numbers: tuple[int, ...]) -> str:
    return listed(numbers, limit=len(numbers)).replace(" ", "")


def _shown_bytes(count: int) -> str:
    text = readable_bytes(count, digits=15).replace(" ", "")
    return text if parse_bytes(text) == count else str(count)


Numbers = Annotated[tuple[int, ...], _written("0-9|0,3,5", parse_numbers, _shown_numbers)]
"""Whole numbers, written such as `0-9` (inclusive), `0,3,5` or `0-2,7`."""

Bytes = Annotated[int, _written("BYTES", parse_bytes, _shown_bytes)]
"""A number of bytes, written such as `500MB`, `2GB` or `1GiB`."""
