"""Who may connect: keys, web pages, hosts and certificates.

A browser lets every page that it shows open a websocket to this machine. What such a page cannot choose are two headers:
`Origin`, which names the page's own site, and `Host`, which names the address that the browser was given, also where that
name was bound to this machine only afterwards (DNS rebinding). Programs send no `Origin`.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from vlascope_client.wording import short
from websockets.datastructures import Headers

from vlascope_server.serving.errors import ServeError

_SHORTEST_KEY = 16
_SCHEME = "Api-Key "


class Access:
    """The key that clients must know, if there is one, and the hosts and origins that a request may name."""

    def __init__(self, key: str | None, hosts: Iterable[str] = (), origins: Iterable[str] = ()):
        """Takes what is allowed beside this machine's own names, addresses in numbers, and this server's own origin.

        Args:
            key: that clients must know.
            hosts: names; `*` is any.
            origins: as browsers send them, `https://example.org:8443`; `*` is any.

        Raises:
            ServeError: one of them is no name or no origin.
        """
        self._key = None if key is None else key.encode()
        own = socket.gethostname().lower()
        short_name = own.partition(".")[0]
        names = ("localhost", own, short_name, f"{short_name}.local", socket.getfqdn().lower())
        self._hosts = {host.removesuffix(".") for host in (*names, *(_checked_host(host) for host in hosts))}
        self._origins = {_checked_origin(origin) for origin in origins}

    def foreign(self, headers: Headers) -> str | None:
        """Why a request is refused as one of a web page; None where it is not."""
        named, origins = headers.get_all("Host"), headers.get_all("Origin")
        if len(named) != 1 or len(origins) > 1:
            return f"expected one Host header and at most one Origin, found {len(named)} and {len(origins)}"
        if not self._is_known(host := _without_port(named[0])) and not self._has_key(headers):
            return f"Host {short(host)}: is no name of this server: allow it with --allow-host, or use an address in numbers"
        for origin in origins:
            if "*" not in self._origins and origin.lower() not in self._origins and not _is_same(origin, named[0]):
                return f"Origin {short(origin)}: web pages of other sites may not connect: allow it with --allow-origin"
        return None

    def lacks_key(self, headers: Headers) -> bool:
        """Whether a request calls this server by a name that only those may use who know its key, and does not know it."""
        host = _without_port(single(headers, "Host") or "")
        return self._key is not None and bool(host) and not self._is_known(host) and not self._has_key(headers)

    def _is_known(self, host: str) -> bool:
        if "*" in self._hosts or host in self._hosts or host.endswith(".localhost"):
            return True
        return is_address(host.strip("[]"))  # nobody's name server can bind a number to another machine

    def _has_key(self, headers: Headers) -> bool:
        """A page does not know the key: who does may call this server by any name."""
        return self._key is not None and self.allows(single(headers, "Authorization"))

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this `Authorization` header may pass; takes the same time for every wrong key."""
        if self._key is None:
            return True
        # websockets decodes headers as ASCII, and keeps what is none as surrogates
        given = (authorization or "").removeprefix(_SCHEME).strip().encode(errors="surrogateescape")
        return hmac.compare_digest(given, self._key) and (authorization or "").startswith(_SCHEME)


def single(headers: Headers, name: str) -> str | None:
    """The header of that name; None where there is none, or more than one."""
    found = headers.get_all(name)
    return found[0] if len(found) == 1 else None


def _without_port(host: str) -> str:
    name, colon, port = host.strip().lower().rpartition(":")
    name = name if colon and port.isdigit() and not name.endswith(":") else host.strip().lower()
    return name.removesuffix(".")  # which a name server's own notation ends with


def _is_same(origin: str, host: str) -> bool:
    """Whether the origin is this server itself, as `Host` names it; some programs send that."""
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _checked_host(host: str) -> str:
    if host != "*" and (not host or any(character in host for character in "/: \t") or not host.isascii()):
        raise ServeError(f"--allow-host {host}: expected a name without scheme and port, such as gpu-host.example.org")
    return host.lower()


def _checked_origin(origin: str) -> str:
    parts = urlsplit(origin)
    if origin not in ("*", "null") and (not parts.scheme or not parts.netloc or parts.path or parts.query):
        raise ServeError(
            f"--allow-origin {origin}: expected scheme, host and port alone, such as https://example.org:8443"
        )
    return origin.lower()


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


def is_address(host: str) -> bool:
    """Whether it is an address in numbers, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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
