"""What can be wrong with a request, as the client is told it. Knows nothing of sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable

from vlascope_client.protocol import ErrorCode


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


class ServeError(ValueError):
    """A server that cannot be started as asked; the message is one line."""


def error_json(code: str, message: str, field: str | None = None, allowed: Iterable[str] = ()) -> str:
    """An error as it travels."""
    return json.dumps({"code": code, "message": message, "field": field, "allowed": list(allowed)})
