"""The values that a pickle stands for: plain ones, containers, and placeholders for whatever a class would have made."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from vlascope_server.torch_checkpoints.errors import TorchCheckpointError

_MOST_IN_KEY = 64
"""Values in a key of a map that is a tuple. A tuple may hold one other many times over, and hashing it visits each time."""
_LARGEST_KEY = 1 << 61
"""Beyond it whole numbers can be chosen so that a map takes for ever to find one among them."""
_LARGEST_INTEGER = 512
"""Bits; Python refuses to write a much larger one as text."""


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or a function that a pickle names, such as `acme.configs.Mode`."""

    name: str


@dataclasses.dataclass(eq=False)
class Placeholder:
    """What a pickle would have made by calling `name`.

    Attributes:
        name: full name of the class or function.
        args: of the call.
        state: what the object's attributes would be; None where the pickle does not say.
        items: what would have been appended to a list, or added to a set.
        fields: what would have been put into a map.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = dataclasses.field(default_factory=list)
    fields: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.name}>"


def container(name: str, args: tuple[Any, ...]) -> Any:
    """A plain value of one of `CONTAINERS`, or a placeholder where the arguments are not a plain value's."""
    first = args[0] if args else None
    values = first if isinstance(first, list | tuple | set | frozenset) else None
    match name.rpartition(".")[2]:
        case "OrderedDict":
            made = OrderedDict()
            for pair in values or ():
                key, value = pair
                made[key_of_map(key)] = value
            return made
        case "defaultdict":
            return {}
        case "Counter":
            return Counter({key_of_map(k): v for k, v in first.items()}) if isinstance(first, dict) else Counter()
        case "dict":
            return dict(first) if isinstance(first, dict) else {key_of_map(key): value for key, value in values or ()}
        case "set" | "frozenset" as kind:
            members = (key_of_map(value) for value in values or ())
            return set(members) if kind == "set" else frozenset(members)
        case "list" | "deque":
            # a deque is a list here: Python crashes where it frees many deques that hold each other
            return list(values or ())
        case "tuple" | "Size":
            return tuple(values or ())
        case "encode" | "bytes" | "bytearray" as kind if isinstance(first, str):
            # how protocol 2, which has no bytes, spells them
            encoded = first.encode("latin1")
            return bytearray(encoded) if kind == "bytearray" else encoded
        case "complex" if all(isinstance(arg, int | float) for arg in args[:2]):
            return complex(*args[:2])
        case "bytes" | "bytearray" if not args:
            return b""
        case "scalar" if (number := _numpy_number(args)) is not None:
            return number
        case "int" | "float" | "str" | "bool" if len(args) == 1 and isinstance(first, int | float | str | bool):
            return first
    return Placeholder(name, args)


def _numpy_number(args: tuple[Any, ...]) -> float | int | bool | None:
    """The number that numpy writes as its dtype and its bytes; None where this is something else."""
    match args:
        case (Placeholder(name="numpy.dtype", args=(str(code), *_), state=(_, str(order), *_)), bytes(data)):
            if re.fullmatch("[iuf][248]|[iub]1", code) and order in "<>|" and len(data) == int(code[1]):
                return np.frombuffer(data, np.dtype(f"{order}{code}"))[0].item()
    return None


def key_of_map(value: Any) -> Any:
    """A value that is to be the key of a map; raises where it is none, or would take long to hash."""
    seen, rest = 0, [value]
    while rest:
        seen += 1
        part = rest.pop()
        if isinstance(part, tuple):
            rest += part[:_MOST_IN_KEY]
        elif not isinstance(part, str | bytes | int | float | complex | Global | Placeholder | None):
            raise TorchCheckpointError(f"a damaged pickle: {shown(part)} cannot be the key of a map")
        elif isinstance(part, int) and abs(part) >= _LARGEST_KEY:
            raise TorchCheckpointError(f"a damaged pickle: {part} cannot be the key of a map")
        if seen > _MOST_IN_KEY or (isinstance(part, tuple) and len(part) > _MOST_IN_KEY):
            raise TorchCheckpointError(f"a pickle whose map has a key of more than {_MOST_IN_KEY} values")
    return value


def bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _LARGEST_INTEGER:
        raise TorchCheckpointError(f"a pickle that holds a whole number of {value.bit_length():,} bits")
    return value


def shown(value: Any) -> str:
    """A value for a message, without its contents where it holds others."""
    if isinstance(value, Global):
        return value.name
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= 60 else f"{value[:57]!r}…"
    return repr(value) if value is None or isinstance(value, int | float | Placeholder) else f"a {type(value).__name__}"
