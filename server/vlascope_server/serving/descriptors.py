"""How many files and sockets the process may have open, and how they are shared out, so that the store never lacks one."""

from __future__ import annotations

import resource

from vlascope_server.serving.errors import ServeError
from vlascope_server.serving.sockets import BACKLOG

EPISODES_OF_A_CLIENT = 32
"""Open at a time: each in the store holds its index file open."""

_MOST = 1 << 16
_OF_A_WRITER = 4
"""A file that is written, its folder, and as much for what seals at the same time."""
_OF_THE_PROCESS = 96
"""What Python, JAX, the device, the log and the compiler's cache have open."""


def raise_limit() -> int:
    """Raises the soft limit of open files as far as this process may, to 65,536 at most; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has another limit beside this one
        return soft
    return wanted


def episodes_to_hold(descriptors: int, *, clients: int, connecting: int, writers: int, asked: int | None) -> int:
    """How many episodes may be open in the store at a time: as many as asked, else as clients may open and files are left.

    Raises:
        ServeError: there are too few descriptors.
    """
    kept = clients + connecting + BACKLOG + _OF_A_WRITER * writers + _OF_THE_PROCESS
    left = descriptors - kept
    needed = asked or 1
    if left < needed:
        raise ServeError(
            f"--max-clients {clients}, --max-connecting {connecting}, --writers {writers}, --max-episodes {needed}: need"
            f" {kept + needed} open files, and this process may have {descriptors}: lower them, or raise the limit"
            " (ulimit -n)"
        )
    return asked or min(left, EPISODES_OF_A_CLIENT * clients)
