"""The one error of this folder. Knows nothing of formats."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line: the path, what was expected, what was found, what to do."""
