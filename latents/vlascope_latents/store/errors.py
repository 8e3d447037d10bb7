"""What can be wrong with a store or a request to it, said in one line: a command prints it, a server sends it."""

from __future__ import annotations

import errno

from vlascope_base import VlascopeError


class StoreError(VlascopeError):
    """A store, a file of it or a request to it that is not as it has to be; the message names path, problem and remedy."""


class DamagedError(StoreError):
    """Bytes that are not what was written."""


class SchemaVersionError(StoreError):
    """A run whose format this version of vlascope does not read."""


class NotCapturedError(StoreError):
    """A slice that asks for something the episodes do not hold; the message lists what they do."""


def remedy(error: BaseException) -> str:
    """What to do where a run cannot be written on: words for the end of a message."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "was the run moved or removed? choose another folder"
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow it to be written, or choose another folder"
    return "make room or choose another folder"
