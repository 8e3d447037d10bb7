"""Reads JSON files that others wrote. A field is checked for its type, and never turned into another one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from vlascope_base import VlascopeError

_LARGEST = 2**31 - 1
"""Of a whole number: nothing that is counted here comes near."""
_SHOWN = 80
"""Characters of a wrong value in a message."""


class JsonError(VlascopeError):
    """A file that is no JSON, or a field that is not what it should be; one line: file, field, what was expected and found."""


def read_json(path: Path) -> JsonMap:
    """The map in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        JsonError: it cannot be read, is no JSON, or holds no map.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{path}: expected JSON: {error or 'nested too deeply'}") from None
    except OSError as error:
        raise JsonError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not isinstance(content, dict):
        raise JsonError(f"{path}: expected a map, found {shown(content)}")
    return JsonMap(path, content)


def shown(value: object) -> str:
    """A value as messages show it, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class JsonMap:
    """A map in a JSON file. Every reader gives None where the field is absent, and raises `JsonError` where its value is wrong.

    Args:
        path: the file, for messages.
        content: the map.
        place: of the map in the file, for messages: empty, or such as `steps.3.`.
    """

    def __init__(self, path: Path, content: dict[str, Any], place: str = ""):
        self.path, self._content, self._place = path, content, place

    def __contains__(self, field: str) -> bool:
        return field in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def items(self) -> Iterable[tuple[str, Any]]:
        """Fields and their values as they are, unchecked."""
        return self._content.items()

    def refuse(self, field: str, expected: str) -> NoReturn:
        """Raises `JsonError` about a field."""
        found = f"found {shown(self._content[field])}" if field in self._content else "it is missing"
        raise JsonError(f"{self.path}: {self._place}{field}: expected {expected}, {found}")

    def whole(self, field: str, at_least: int = 1) -> int | None:
        """A whole number; true and 3.0 are none."""
        value = self._content.get(field)
        if field in self and (type(value) is not int or not at_least <= value <= _LARGEST):
            self.refuse(field, f"a whole number of at least {at_least}")
        return value

    def number(self, field: str) -> float | None:
        """A finite number."""
        if field not in self:
            return None
        value = self._content[field]
        if not is_finite(value):
            self.refuse(field, "a finite number")
        return float(value)

    def flag(self, field: str) -> bool | None:
        """True or false."""
        value = self._content.get(field)
        if field in self and not isinstance(value, bool):
            self.refuse(field, "true or false")
        return value

    def text(self, field: str, allowed: Sequence[str] = ()) -> str | None:
        """A text, one of `allowed` where these are given."""
        value = self._content.get(field)
        if field in self and (not isinstance(value, str) or (allowed and value not in allowed)):
            self.refuse(field, f"one of {', '.join(allowed)}" if allowed else "a text")
        return value

    def either(self, field: str, *types: type) -> Any:
        """A value of one of these types, which has to be there."""
        if type(self._content.get(field)) not in types:
            self.refuse(field, f"one of {', '.join(kind.__name__ for kind in types)}")
        return self._content[field]

    def texts(self, field: str) -> list[str] | None:
        """A list of texts."""
        value = self._content.get(field)
        if field in self and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            self.refuse(field, "a list of texts")
        return value

    def wholes(self, field: str) -> tuple[int, ...] | None:
        """A list of whole numbers of at least 1, such as a shape."""
        value = self._content.get(field)
        if field not in self:
            return None
        if not (isinstance(value, list) and all(type(item) is int and 1 <= item <= _LARGEST for item in value)):
            self.refuse(field, "a list of whole numbers of at least 1")
        return tuple(value)

    def numbers(self, field: str, *, or_null: bool = False) -> list[float] | None:
        """A list of finite numbers; null is as good as absent with `or_null`."""
        value = self._content.get(field)
        if field not in self or (value is None and or_null):
            return None
        if not isinstance(value, list):
            self.refuse(field, "a list of numbers")
        for i, item in enumerate(value):
            if not is_finite(item):
                raise JsonError(f"{self.path}: {self._place}{field}.{i}: expected a finite number, found {shown(item)}")
        return [float(item) for item in value]

    def map(self, field: str, *, or_null: bool = False) -> JsonMap | None:
        """A map; null is as good as absent with `or_null`."""
        value = self._content.get(field)
        if field not in self or (value is None and or_null):
            return None
        if not isinstance(value, dict):
            self.refuse(field, "a map")
        return JsonMap(self.path, value, f"{self._place}{field}.")

    def maps(self, field: str) -> list[JsonMap] | None:
        """A list of maps."""
        value = self._content.get(field)
        if field not in self:
            return None
        if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            self.refuse(field, "a list of maps")
        return [JsonMap(self.path, item, f"{self._place}{field}.{i}.") for i, item in enumerate(value)]


def is_finite(value: object) -> bool:
    """Whether a value from JSON is a number, and a float holds it."""
    try:
        return type(value) in (int, float) and math.isfinite(cast(float, value))
    except OverflowError:  # a whole number beyond every float
        return False


def without_nan(value: Any) -> Any:
    """A value for JSON in which numbers that are NaN or infinite, for which JSON has no word, are null."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
