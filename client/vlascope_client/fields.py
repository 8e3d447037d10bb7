"""Reads fields of a peer's map by name and type, and says which one is wrong. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from vlascope_client.errors import ProtocolError

T = TypeVar("T")


def read(message: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """Field `name` of `message`, which is called `where`.

    Raises:
        ProtocolError: it is missing, or no `kind`.
    """
    value: Any = message.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = f"{type(value).__name__} {value!r}"[:80] if name in message else "no such field"
        raise ProtocolError(f"{where}.{name}: expected {kind.__name__}, found {found}")
    return value


def read_optional(message: Mapping[str, Any], name: str, kind: type[T], where: str) -> T | None:
    """As `read`; None where the field is nil or missing."""
    return None if message.get(name) is None else read(message, name, kind, where)
