"""What can go wrong between a client and a server; every message is one line for people. Knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Sequence


class PolicyClientError(Exception):
    """Base of everything that this package raises of its own; a wrong argument is a `ValueError`."""


class PolicyError(PolicyClientError):
    """The server answered with an error. The connection is still good.

    Attributes:
        code: of `vlascope_client.protocol.ErrorCode`; empty where the server is no vlascope server.
        message: one line.
        field: the field of the message that was wrong, or None.
        allowed: what would have been accepted, where that can be listed.
    """

    def __init__(self, code: str, message: str, field: str | None = None, allowed: Sequence = ()):
        super().__init__(f"{message} [{code}]" if code else message)
        self.code, self.message, self.field, self.allowed = code, message, field, tuple(allowed)


class PolicyConnectionError(PolicyClientError, ConnectionError):
    """No server could be reached, or it refused the connection.

    Attributes:
        status: of HTTP where a server refused, else None.
        code: `unauthorized`, `too_many_clients`, … where a server said so, else None.
    """

    def __init__(self, message: str, status: int | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class PolicyTimeoutError(PolicyClientError, TimeoutError):
    """No reply in time. The connection was given up; the next request makes a new one."""


class ProtocolError(PolicyClientError):
    """The peer does not speak the protocol of docs/protocol.md as this package knows it."""


class EpisodeInterruptedError(PolicyClientError):
    """An episode with frames in the store lost its connection: the server has sealed it as `interrupted`.

    Run the episode again from its start; the same id becomes a new attempt. The client is usable, and reconnects by itself.

    Attributes:
        episode: its id; None for the connection's own episode where that is not known.
    """

    def __init__(self, episode: str | None, reason: str):
        name = f"episode {episode}" if episode else "the episode of this connection"
        super().__init__(
            f"{name}: interrupted, because {reason}: the server seals it with the frames that it has; "
            "run the episode again from its start, the same id becomes a new attempt"
        )
        self.episode = episode


class SpecMismatchError(PolicyClientError):
    """The server's policy is not the one that was expected.

    Attributes:
        mismatches: (field, expected, found) of each field that differs.
    """

    def __init__(self, server: str, mismatches: Sequence[tuple[str, object, object]]):
        fields = "; ".join(f"{name}: expected {expected!r}, found {found!r}" for name, expected, found in mismatches)
        super().__init__(f"{server}: {fields}")
        self.mismatches = tuple(mismatches)
