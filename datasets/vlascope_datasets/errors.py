"""What can be wrong with a dataset or a request to it, said in one line.

Knows nothing of how it is reported: a command prints it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class DatasetError(ValueError):
    """A folder, a file of it or a request to it that is not as it has to be; the message names it, the problem, the remedy."""


class DamagedError(DatasetError):
    """A file that is there and does not hold what the dataset's metadata say it holds."""


class VersionError(DatasetError):
    """A dataset of a format version that is not read."""


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """While values of a file are taken apart: what Python says of a malformed one becomes one line.

    Args:
        what: the file, and what is in it.

    Raises:
        DamagedError: a value is missing, or not of the kind that it should be.
    """
    try:
        yield
    except DatasetError:
        raise
    except KeyError as error:
        raise DamagedError(f"{what} lacks {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DamagedError(f"{what} is not as it should be: {error}") from error
