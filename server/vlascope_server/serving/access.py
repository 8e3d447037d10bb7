"""Who may connect: keys, hosts and certificates. Knows nothing of what a client then asks."""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from pathlib import Path

from vlascope_server.serving.errors import ServeError

_SHORTEST_KEY = 16
_SCHEME = "Api-Key "


class Access:
    """The key that clients must know, if there is one."""

    def __init__(self, key: str | None):
        self._key = None if key is None else key.encode()

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this `Authorization` header may pass; takes the same time for every wrong key."""
        if self._key is None:
            return True
        # websockets decodes headers as ASCII, and keeps what is none as surrogates
        given = (authorization or "").removeprefix(_SCHEME).strip().encode(errors="surrogateescape")
        return hmac.compare_digest(given, self._key) and (authorization or "").startswith(_SCHEME)


def read_key(path: Path) -> str:
    """The key in a file, without the space around it.

    Raises:
        ServeError: it cannot be read, or is too short to be one.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise ServeError(f"{path}: cannot read the key ({reason})") from None
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise ServeError(
            f"{path}: expected a key of at least {_SHORTEST_KEY} printable characters, found {len(key)}:"
            " `openssl rand -hex 32` makes one"
        )
    return key


def check_host(host: str, *, has_key: bool, insecure: bool) -> None:
    """Refuses to be reachable from other machines without a key.

    Raises:
        ServeError: says what to do instead.
    """
    if not is_loopback(host) and not has_key and not insecure:
        raise ServeError(
            f"--host {host}: other machines could reach this server, and it has no key: give --api-key-file,"
            " or --insecure where the network itself is closed"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """For `wss://`; None without a certificate.

    Raises:
        ServeError: one of the two files is missing or is none.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ServeError("--tls-cert and --tls-key: expected both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ServeError(f"--tls-cert {cert}, --tls-key {key}: cannot be used ({error})") from None
    return context
