"""What can be wrong with a store or a request to it, said in one line.

Knows nothing of how it is reported: a command prints it, a server sends it.
"""

from __future__ import annotations

from vlascope_base import VlascopeError


class StoreError(VlascopeError):
    """A store, a file of it or a request to it that is not as it has to be; the message names path, problem and remedy."""


class DamagedError(StoreError):
    """Bytes that are not what was written."""


class SchemaVersionError(StoreError):
    """A run whose format this version of vlascope does not read."""


class NotCapturedError(StoreError):
    """A slice that asks for something the episodes do not hold; the message lists what they do."""
