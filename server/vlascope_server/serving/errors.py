"""What can be wrong with a request, as the client is told it, and with a server that is to be started."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlascope_base import VlascopeError

if TYPE_CHECKING:
    from vlascope_client.protocol import ErrorCode

_MESSAGE_BYTES, _FIELD_BYTES, _ALLOWED_BYTES = 1200, 200, 400


class RequestError(Exception):
    """A request that is refused; the connection lives on.

    Attributes:
        code: one of the protocol's.
        message: one line for people.
        field: the field that is wrong, if one is.
        allowed: what would have been accepted, where it can be listed.
    """

    def __init__(self, code: ErrorCode, message: str, field: str | None = None, allowed: Iterable[object] = ()):
        super().__init__(message)
        self.code, self.message, self.field = code, message, field
        self.allowed = [str(value) for value in allowed]

    def to_json(self) -> str:
        """The text frame that answers the request."""
        return error_json(self.code, self.message, self.field, self.allowed)


class ServeError(VlascopeError):
    """A server that cannot be started as asked; the message is one line."""


def error_json(code: str, message: str, field: str | None = None, allowed: Iterable[str] = ()) -> str:
    """An error as it travels: one line of at most 2 kB, whatever a client's message had in it."""
    room, kept = _ALLOWED_BYTES, []
    for value in allowed:
        room -= _travelling(value := _one_line(value, _ALLOWED_BYTES)) + 2
        if room < 0:
            break
        kept.append(value)
    content = {
        "code": code,
        "message": _one_line(message, _MESSAGE_BYTES),
        "field": None if field is None else _one_line(field, _FIELD_BYTES),
        "allowed": kept,
    }
    return json.dumps(content)


def _one_line(text: str, most: int) -> str:
    """`text` in at most `most` bytes of JSON, without line breaks or anything else that is not printed."""
    line = "".join(character if character.isprintable() else " " for character in text[:most])
    if len(text) <= most and _travelling(line) <= most:
        return line
    while _travelling(line) > most - 5:  # JSON escapes what is not ASCII; room for three dots is kept
        line = line[: min(len(line) - 1, len(line) * most // _travelling(line))]
    return f"{line}..."


def _travelling(text: str) -> int:
    return len(json.dumps(text))
