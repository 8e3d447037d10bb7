"""A failure that repeats itself is logged once a second: a full disk must not become full of its own log."""

from __future__ import annotations

import logging
import time

_SECONDS = 1.0
_REMEMBERED = 256


class OncePerSecond(logging.Filter):
    """Lets a warning or an error pass once a second, with the number of those that were left out since the last one.

    Records are alike if their logger and their text before arguments are, and the kind of their exception.
    """

    def __init__(self):
        super().__init__()
        self._passed: dict[tuple, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it. Logging holds the handler's lock meanwhile or not: a lost count is no harm."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, str(record.msg), kind)
        since, left_out = self._passed.get(key, (-_SECONDS, 0))
        now = time.monotonic()
        if now - since < _SECONDS:
            self._passed[key] = (since, left_out + 1)
            return False
        if len(self._passed) >= _REMEMBERED:
            self._passed.clear()
        self._passed[key] = (now, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", ()
        return True
