"""What can be wrong with a dataset or a request to it, said in one line.

Knows nothing of how it is reported: a command prints it.
"""

from __future__ import annotations

from vlascope_base import VlascopeError


class DatasetError(VlascopeError):
    """A folder, a file of it or a request to it that is not as it has to be; the message names it, the problem, the remedy."""


class DamagedError(DatasetError):
    """A file that is there and does not hold what the dataset's metadata say it holds."""


class UnreadError(DatasetError):
    """Something that is sound and is not read, such as a depth map: it can be copied, not looked at."""


class VersionError(DatasetError):
    """A dataset of a format version that is not read."""
