"""The one error of this folder. Knows nothing of how it is reported."""

from __future__ import annotations


class TrainingError(ValueError):
    """Training that cannot begin or go on; one line: what was wrong, which value, what was allowed, what to do."""
