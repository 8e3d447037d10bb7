"""Where servers are, how to reach them, and how long to wait between tries. Opens no socket."""

from __future__ import annotations

import dataclasses
import random
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit


def server_urls(servers: str | Sequence[str]) -> tuple[str, ...]:
    """Websocket urls of one server or of several, in the order to try them.

    Args:
        servers: each `ws://host:port`, `wss://host:port` or `host:port`, which is `ws://`.

    Raises:
        ValueError: one is no such address, or there is none.
    """
    urls = tuple(_url(server) for server in ([servers] if isinstance(servers, str) else servers))
    if not urls:
        raise ValueError("servers: expected at least one, such as ws://localhost:8000")
    return urls


def _url(server: str) -> str:
    url = server if "://" in server else f"ws://{server}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"server {server!r}: expected ws://host:port, wss://host:port or host:port")
    return url


def tls_context(url: str, tls: ssl.SSLContext | str | Path | None) -> ssl.SSLContext | None:
    """How to check the server of `url`: None for `ws://`; for `wss://` `tls` itself, or one that trusts that CA file.

    Raises:
        ValueError: the CA file is none.
    """
    if not url.startswith("wss://"):
        return None
    if isinstance(tls, ssl.SSLContext):
        return tls
    try:
        return ssl.create_default_context(cafile=str(tls) if tls is not None else None)
    except OSError as error:
        raise ValueError(f"tls: {tls}: expected a file of certificates (PEM): {error.strerror or error}") from None


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Delays between tries: they double from `first` up to `cap`, and each is shortened at random by up to `jitter`.

    Attributes:
        first: seconds.
        cap: seconds.
        jitter: 0 to 1; so that clients that lost one server together do not come back together.
    """

    first: float = 0.2
    cap: float = 10.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.cap and 0 <= self.jitter <= 1):
            raise ValueError(f"backoff: expected 0 < first <= cap and a jitter of 0 to 1, found {self}")

    def delays(self) -> Iterator[float]:
        """Seconds to wait before each next try, without end."""
        longest = self.first
        while True:
            yield longest * (1 - self.jitter * random.random())  # noqa: S311 (spreads load, keeps no secret)
            longest = min(self.cap, 2 * longest)
