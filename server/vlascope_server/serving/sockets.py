"""The sockets that clients open: how many may be on their way to a handshake, and how many descriptors they leave to the store.

asyncio accepts whatever comes and keeps it through TLS and HTTP handshakes, for as long as those take. The listening socket
itself keeps the count here, since it is the only one that sees every connection. Where there are too many, the one that
has been silent longest goes: whoever has something to say says it at once. Where many arrive at one moment, what they say
waits in their sockets: those are not silent, and go only where nothing else keeps the overall bound.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
from collections import Counter, OrderedDict

from vlascope_server.serving.errors import ServeError
from vlascope_server.serving.options import EPISODES_OF_A_CLIENT, Limits

_log = logging.getLogger(__name__)

Address = tuple[str, int] | tuple[str, int, int, int]
"""A client's address as a socket of IPv4 or of IPv6 names it: the host comes first."""

BACKLOG = 100
"""Connections that one look at a listening socket accepts at most; the system queues as many."""

_MOST_DESCRIPTORS = 1 << 16
_OF_A_WRITER = 4
"""A file that is written, its folder, and as much for what seals at the same time."""
_OF_THE_PROCESS = 96
"""What Python, JAX, the device, the log and the compiler's cache have open."""


class Arrivals:
    """Sockets between being accepted and the end of their handshake. Used on the event loop alone."""

    def __init__(self, most: int, most_of_a_host: int):
        """Lets `most` wait at a time, and `most_of_a_host` of those from one address."""
        self._most, self._most_of_a_host = most, most_of_a_host
        self._waiting: OrderedDict[Address, socket.socket] = OrderedDict()

    def __len__(self) -> int:
        self._forget_closed()
        return len(self._waiting)

    def arrived(self, connection: socket.socket, address: Address) -> None:
        """A socket was accepted; hangs up on another one where there are too many."""
        self._waiting[address] = connection
        if len(self._waiting) > self._most_of_a_host:  # neither bound can be exceeded before
            self._forget_closed()
            hosts = Counter(other[0] for other in self._waiting)
            if len(self._waiting) > self._most:
                self._hang_up_on_one(hosts.most_common(1)[0][0], address, spare=False)
            elif hosts[address[0]] > self._most_of_a_host:
                self._hang_up_on_one(address[0], address, spare=True)

    def let_in(self, address: Address) -> None:
        """The handshake of the client at `address` is over."""
        self._waiting.pop(address, None)

    def hang_up(self) -> None:
        """Ends all of them."""
        for address in list(self._waiting):
            self._end(address)

    def _forget_closed(self) -> None:
        for address in [address for address, connection in self._waiting.items() if connection.fileno() < 0]:
            del self._waiting[address]

    def _hang_up_on_one(self, host: str, newest: Address, *, spare: bool) -> None:
        """Ends the oldest silent one of a host; where none is, the oldest that speaks, or none where those are spared."""
        others = [address for address in self._waiting if address[0] == host and address != newest]
        silent = next((address for address in others if _is_silent(self._waiting[address])), None)
        chosen = silent if spare or silent is not None else next(iter(others), newest)
        if chosen is None:
            return
        _log.warning(
            "hung up on a connection of %s before its handshake was over: %d were on their way to one; at most %d may be, %d of"
            " them from one host",
            host,
            len(self._waiting),
            self._most,
            self._most_of_a_host,
        )
        self._end(chosen)

    def _end(self, address: Address) -> None:
        # the transport that asyncio makes of the socket sees its end and closes it, whatever handshake it is in
        with contextlib.suppress(OSError):
            self._waiting.pop(address).shutdown(socket.SHUT_RDWR)


def _is_silent(connection: socket.socket) -> bool:
    """Whether nothing waits to be read from a socket; what does is left there."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing yet, or its other end is gone
        return True


class ListeningSocket(socket.socket):
    """A socket that tells `arrivals` of each connection that it accepts."""

    arrivals: Arrivals

    def accept(self) -> tuple[socket.socket, Address]:
        """The next connection and its address."""
        connection, address = super().accept()
        self.arrivals.arrived(connection, address)
        return connection, address


def listen(host: str, port: int, arrivals: Arrivals) -> list[ListeningSocket]:
    """A bound socket for each address of `host`, on the same port: a free one where `port` is 0.

    Raises:
        OSError: none of its addresses can be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[ListeningSocket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listening = ListeningSocket(family, kind, protocol)
        except OSError as error:  # a family that this machine lacks
            failure = error
            continue
        listening.arrivals = arrivals
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = sockets[0].getsockname()[1] if sockets else port
            listening.bind((address[0], taken, *address[2:]))
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRNOTAVAIL:  # a family without addresses is no reason to stop, a port in use is
                for other in sockets:
                    other.close()
                raise
            failure = error
            continue
        sockets.append(listening)
    if not sockets:
        raise failure or OSError(f"{host}: has no address")
    return sockets


def raise_limit() -> int:
    """Raises the soft limit of open files as far as this process may, to 65,536 at most; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has another limit beside this one
        return soft
    return wanted


def episodes_to_hold(descriptors: int, limits: Limits, *, writers: int) -> int:
    """How many episodes may be open in the store at a time: as many as asked, else as clients may open and files are left.

    Args:
        descriptors: files and sockets that the process may have open.
        limits: that are asked for.
        writers: threads that write to the store.

    Raises:
        ServeError: there are too few descriptors.
    """
    kept = limits.max_clients + limits.max_connecting + BACKLOG + _OF_A_WRITER * writers + _OF_THE_PROCESS
    left = descriptors - kept
    needed = limits.max_episodes or 1
    if left < needed:
        raise ServeError(
            f"--max-clients {limits.max_clients}, --max-connecting {limits.max_connecting}, --writers {writers},"
            f" --max-episodes {needed}: need {kept + needed} open files, and this process may have {descriptors}: lower"
            " them, or raise the limit (ulimit -n)"
        )
    return limits.max_episodes or min(left, EPISODES_OF_A_CLIENT * limits.max_clients)
