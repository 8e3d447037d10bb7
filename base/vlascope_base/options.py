"""Fields and types that options of several commands share.

The options of a command are one frozen dataclass, which the code runs on and tyro reads: the string below a field is its help.
Modules that define options import no JAX, so that `--help` stays quick. `word_of` and `read_fields` are for options whose
defaults come from a file (see `command.py`).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from vlascope_base.errors import OptionError
from vlascope_base.text import listed, parse_bytes, parse_numbers, readable_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

LogLevel = Literal["debug", "info", "warning", "error"]
"""The names of the levels of logging."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """What every subcommand takes."""

    log_level: LogLevel = "info"
    """Least severe messages to show, on stderr."""
    print_config: bool = False
    """Print all options as JSON, those of files among them, and stop."""


def record_of(options: DataclassInstance) -> dict[str, Any]:
    """The options of a command as its results keep them: without `print_config`, which is of no run."""
    record = dataclasses.asdict(options)
    record.pop("print_config", None)
    return record


def _written(
    metavar: str, parse: Callable[[str], T], show: Callable[[T], str], kept: Callable[[Any], bool]
) -> PrimitiveConstructorSpec[T]:
    """A value that is one word on the command line.

    Args:
        metavar: what the help calls it.
        parse: the value of a text; raises `OptionError`.
        show: a text of the value, for the help.
        kept: whether a value is one of these, as a default has to be.
    """

    def read(words: list[str]) -> T:
        try:
            return parse(words[0])
        except OptionError as error:
            raise ValueError(str(error)) from None

    return PrimitiveConstructorSpec(
        nargs=1, metavar=metavar, instance_from_str=read, is_instance=kept, str_from_instance=lambda v: [show(v)]
    )


def _shown_numbers(numbers: tuple[int, ...]) -> str:
    return listed(numbers, limit=len(numbers)).replace(" ", "")


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(number, int) for number in value)


def _shown_bytes(count: int) -> str:
    text = readable_bytes(count, digits=15).replace(" ", "")
    return text if parse_bytes(text) == count else str(count)


Numbers = Annotated[tuple[int, ...], _written("0-9|0,3,5", parse_numbers, _shown_numbers, _are_numbers)]
"""Whole numbers, written such as `0-9` (inclusive), `0,3,5` or `0-2,7`; an empty default is shown as `none`.

`Numbers | None` would give an unreadable error: `NumbersOrAll` is the word for it.
"""

NumbersOrAll = Annotated[
    tuple[int, ...] | None,
    _written(
        "all|0-9|0,3,5",
        lambda text: None if text == "all" else parse_numbers(text),
        lambda numbers: "all" if numbers is None else _shown_numbers(numbers),
        lambda value: value is None or _are_numbers(value),
    ),
]
"""The same, or `all`, which is None."""

Bytes = Annotated[int, _written("BYTES", parse_bytes, _shown_bytes, lambda value: isinstance(value, int))]
"""A number of bytes, written such as `500MB`, `2GB` or `1GiB`."""


def word_of(option: str, args: Sequence[str]) -> str | None:
    """The word that a command line gives to an option.

    Args:
        option: as it is written, such as `--config`.
        args: of the command line; `--config FILE` and `--config=FILE` are both read, and the last one counts.
    """
    found = None
    for number, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else next(iter(args[number + 1 :]), None)
    return found


def read_fields(options: type, found: Mapping[str, object]) -> dict[str, Any]:
    """The values that a file gives to the fields of a dataclass, which need not be all of them.

    Args:
        options: the dataclass.
        found: what JSON or YAML made of the file: lists stand for tuples, whole numbers for floats, text for paths.

    Raises:
        OptionError: a field is unknown, or a value is of the wrong type; the message names it and what is allowed.
    """
    kinds = typing.get_type_hints(options)
    for name in found:
        if name not in kinds:
            raise OptionError(f"field {name!r} is unknown; the fields are {', '.join(kinds)}")
    return {name: _typed(name, value, kinds[name]) for name, value in found.items()}


def _typed(name: str, value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(name, value, args[0])
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(f"{name}[{k}]", entry, args[0]) for k, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {_typed(name, k, args[0]): _typed(f"{name}.{k}", entry, args[1]) for k, entry in value.items()}
    if origin is Literal and value in args:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    allowed = ", ".join(map(str, args)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise OptionError(f"{name}: expected {allowed}, found {value!r}")
