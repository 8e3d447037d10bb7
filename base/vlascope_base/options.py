"""Fields and types that options of several commands share.

The options of a command are one frozen dataclass, which the code runs on and tyro reads: the string below a field is its help.
Modules that define options import no JAX, so that `--help` stays quick. `ConfigFile` is for commands whose options may come
from a file; `word_of` and `read_fields` are for those that have a file of their own kind (see `command.py`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from vlascope_base.errors import OptionError
from vlascope_base.maps import read_map
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

    def configuration(self) -> dict[str, Any]:
        """The options as `--print-config` prints them, which is how a file may give them."""
        return _without_secrets(record_of(self))


UNRECORDED = ("print_config", "config")
"""Options that no result keeps: the one is of no run, and the file that the other names may say something else by then."""

_SECRETS = ("api_key",)
_NOT_SHOWN = "(given)"
"""What stands for a secret where options are printed."""


def record_of(options: DataclassInstance) -> dict[str, Any]:
    """The options of a command as its results keep them: all but `UNRECORDED`."""
    return {name: value for name, value in dataclasses.asdict(options).items() if name not in UNRECORDED}


def _without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_secrets(value)
        if isinstance(value, dict)
        else _NOT_SHOWN
        if name in _SECRETS and value
        else value
        for name, value in options.items()
    }


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


def file_of(option: str, args: Sequence[str]) -> Path | None:
    """The file that a command line gives to an option; None where it gives none.

    Raises:
        OptionError: it gives an empty word.
    """
    word = word_of(option, args)
    if word == "":
        raise OptionError(f"{option}: expected a file, found nothing")
    return None if word is None else Path(word)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """Options whose defaults may come from a file; a subcommand inherits this beside its own.

    The file is a map of options by name, with dashes or underscores, those of nested dataclasses beside the others or in a map
    of their own. A value is written as YAML writes it, or as on the command line (`2GB`, `0-9`). What `--print-config` prints
    serves, in a block with the subcommand's name, and so does a file in which a command has recorded its options, in a block
    `options` or `config`.
    """

    config: Path | None = None
    """YAML or JSON file with any of the options by name; what is given on the command line overrides it."""

    @classmethod
    def given_by_file(cls, args: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
        """The file that the command line names, and the options that it gives; None where it names none.

        Raises:
            OptionError: as `defaults`.
        """
        file = file_of("--config", args)
        if file is None:
            return None
        try:
            found = _options_in(file, cls.__name__.lower())
            for name in _SECRETS:
                if found.get(name) == _NOT_SHOWN:
                    if word_of(_spelled(name), args) is None:
                        raise OptionError(
                            f"{name}: {_NOT_SHOWN!r} stands for a secret that was not printed; give {_spelled(name)}, or take "
                            "the line out"
                        )
                    del found[name]
            return file, read_fields(cls, found)
        except OptionError as error:
            raise OptionError(f"{file}: {error}") from error

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Any:
        """An instance with the values of the file that the command line names; None where it names none.

        It serves as defaults alone: required options that the file lacks are missing, and nothing is checked but types.

        Raises:
            OptionError: the file is missing, no map, or has an option that is unknown or of the wrong type; the message names
                file and option.
        """
        given = cls.given_by_file(args)
        return None if given is None else _defaults_of(cls, given[1])


def _spelled(name: str) -> str:
    """A field as the option that it is."""
    return f"--{name.replace('_', '-')}"


def gives(args: Sequence[str], name: str) -> bool:
    """Whether a command line gives a field, as `--name` or `--no-name`."""
    written = {word.partition("=")[0].replace("_", "-") for word in args}
    return bool(written & {_spelled(name), _spelled(f"no_{name}")})


_BLOCKS = ("options", "config")


def _options_in(path: Path, subcommand: str) -> dict[str, Any]:
    """The map of options in a file, its names with underscores."""
    found = read_map(path)
    found = next((found[block] for block in (subcommand, *_BLOCKS) if isinstance(found.get(block), dict)), found)
    options: dict[str, object] = {}
    for name, value in found.items():
        field = str(name).replace("-", "_")
        if field == "config":
            raise OptionError("config: a file of options cannot name another")
        if field in options:
            raise OptionError(f"{field}: is given twice")
        options[field] = value
    return options


def _defaults_of(options: type[T], values: Mapping[str, object]) -> T:
    """An instance for tyro to take defaults from; not made by its constructor, which may refuse what is not complete."""
    made = object.__new__(options)
    for field in dataclasses.fields(options):  # pyright: ignore[reportArgumentType]
        if (nested := _nested(_kinds(options)[field.name])) is not None:
            value = _defaults_of(nested, values)
        elif field.name in values:
            value = values[field.name]
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        object.__setattr__(made, field.name, value)
    return made


def read_fields(options: type, found: Mapping[str, object]) -> dict[str, Any]:
    """The values that a file gives to the fields of a dataclass and of those nested in it, which need not be all of them.

    Args:
        options: the dataclass.
        found: what JSON or YAML made of the file: lists stand for tuples, whole numbers for floats, text for paths, and digits
            for numbers as keys; what an option reads in a form of its own (`Numbers`, `Bytes`) may be written in it. Fields of
            a nested dataclass stand beside the others, or in a map by its name.

    Raises:
        OptionError: a field is unknown, or a value is of the wrong type; the message names it and what is allowed.
    """
    kinds = {name: kind for name, kind in _leaves(options).items() if name not in UNRECORDED}
    groups = {name: nested for name, kind in _kinds(options).items() if (nested := _nested(kind)) is not None}
    fields: dict[str, Any] = {}
    for name, value in found.items():
        if name in groups and isinstance(value, dict):
            read = read_fields(groups[name], {str(inner).replace("-", "_"): kept for inner, kept in value.items()})
        elif name in kinds:
            read = {name: _typed(name, value, kinds[name])}
        else:
            raise OptionError(f"field {name!r} is unknown; the fields are {', '.join(kinds)}")
        if twice := fields.keys() & read.keys():
            raise OptionError(f"{min(twice)}: is given twice")
        fields |= read
    return fields


def _kinds(options: type) -> dict[str, Any]:
    return typing.get_type_hints(options, include_extras=True)


def _leaves(options: type) -> dict[str, Any]:
    """The types of fields, those of nested dataclasses in their place."""
    leaves: dict[str, Any] = {}
    for name, kind in _kinds(options).items():
        nested = _nested(kind)
        leaves |= {name: kind} if nested is None else _leaves(nested)
    return leaves


def _nested(kind: Any) -> type | None:
    """The dataclass whose fields are options by themselves; None where the type is that of one value."""
    if _form(kind) is not None:
        return None
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    return bare if isinstance(bare, type) and dataclasses.is_dataclass(bare) else None


def _form(kind: Any) -> PrimitiveConstructorSpec[Any] | None:
    """How a value of this type is written as one word; None where it has no form of its own."""
    notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return next((note for note in notes if isinstance(note, PrimitiveConstructorSpec)), None)


def _typed(name: str, value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        form = _form(kind)
        if form is None or not (isinstance(value, str | dict) or type(value) is int):
            return _typed(name, value, args[0])
        try:
            return form.instance_from_str([value if isinstance(value, str) else json.dumps(value)])
        except (ValueError, TypeError) as error:
            raise OptionError(f"{name}: {error}") from None
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(name, value, args[0])
    if origin is tuple and isinstance(value, list) and (args[-1] is Ellipsis or len(args) == len(value)):
        return tuple(_typed(f"{name}[{k}]", entry, args[0]) for k, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        # JSON has no other keys than text
        keys = [int(k) if args[0] is int and isinstance(k, str) and k.isdecimal() else k for k in value]
        entries = zip(keys, value.values(), strict=True)
        return {_typed(name, k, args[0]): _typed(f"{name}.{k}", entry, args[1]) for k, entry in entries}
    if origin is Literal and value in args:
        return value
    if kind is float and (type(value) is int or (isinstance(value, str) and re.fullmatch(_EXPONENT, value))):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise OptionError(f"{name}: expected {_allowed(kind)}, found {value!r}")


_EXPONENT = r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"
"""A number that YAML takes for text: 1e-4 has no point, or its exponent no sign."""


def _allowed(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin is tuple:
        return (
            f"a list of {_allowed(args[0])}" if args[-1] is Ellipsis else f"a list of {len(args)} {_allowed(args[0])}"
        )
    return "a map" if origin is dict else getattr(kind, "__name__", str(kind))
