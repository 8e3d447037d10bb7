"""What a conversation asks of the one who does its input and output, and what can come of it.

Knows nothing of what travels, nor of websockets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Open:
    """Connect to `url` and return the first frame that comes, all within `timeout` seconds."""

    url: str
    timeout: float


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Send `data` as a binary frame and return the next frame, all within `timeout` seconds."""

    data: bytes
    timeout: float


@dataclasses.dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Close:
    """Close the connection, if there is one; `clean` where nothing was left unfinished."""

    clean: bool


Step = Open | Exchange | Sleep | Close
Steps = Generator[Step, Any, T]
"""A conversation: yields steps, is sent what they return (bytes or text of a frame) or thrown how they failed."""


class Lost(Exception):  # noqa: N818 (never leaves this package)
    """The connection could not be made, or is gone.

    Attributes:
        too_large: because the message was larger than the peer takes.
    """

    def __init__(self, reason: str, *, too_large: bool = False):
        super().__init__(reason)
        self.too_large = too_large


class Refused(Exception):  # noqa: N818
    """The peer answered the handshake with an HTTP status.

    Attributes:
        status: of HTTP.
        body: text.
    """

    def __init__(self, status: int, body: str):
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body
