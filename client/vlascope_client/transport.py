"""What both twins tell the websockets library, and its failures in our words. Performs no input or output itself."""

from __future__ import annotations

import os
import ssl
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from vlascope_client.steps import Lost, Refused

CLOSE_SECONDS = 2.0
"""That a server may take to say goodbye."""

ABORT_SECONDS = 0.1
"""The same where it has failed us already, and the caller waits for the news."""

CLOSED_CLEANLY, CLOSED_UNFINISHED = 1000, 1011
"""Close codes of RFC 6455; after any but the first the server marks every open episode as interrupted."""

_TOO_LARGE = 1009

FAILURES = (OSError, WebSocketException, EOFError)
"""Of connecting, sending and receiving; a `TimeoutError` is one of them and is passed on as it is."""


def connect_options(url: str, headers: dict[str, str], timeout: float, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Keyword arguments of `connect`, of either kind. Latents and images do not compress, and replies may be large."""
    return {
        "uri": url,
        "additional_headers": headers,
        "open_timeout": timeout,
        "close_timeout": CLOSE_SECONDS,
        "compression": None,
        "max_size": None,
        "ssl": tls,
    }


def closing(clean: bool) -> tuple[int, float]:
    """Close code, and seconds to wait for the server's."""
    return (CLOSED_CLEANLY, CLOSE_SECONDS) if clean else (CLOSED_UNFINISHED, ABORT_SECONDS)


def translate(error: BaseException) -> BaseException:
    """What `error`, one of `FAILURES`, means to a conversation."""
    if isinstance(error, TimeoutError | Lost | Refused):
        return error
    if isinstance(error, InvalidStatus):
        body = error.response.body or b""
        return Refused(error.response.status_code, bytes(body).decode(errors="replace"))
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(0, f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, ConnectionClosed):
        received = error.rcvd
        said = f"closed with {received.code} {received.reason}".rstrip() if received else "closed without a word"
        return Lost(said, too_large=received is not None and received.code == _TOO_LARGE)
    if isinstance(error, OSError):
        known = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        return Lost((known or type(error).__name__).lower())
    return Lost(str(error) or type(error).__name__)
