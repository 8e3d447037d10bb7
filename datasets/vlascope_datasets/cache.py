"""Arrays kept in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np


class ByteCache:
    """Gives up what was asked for least recently. Any number of threads may use it.

    Args:
        limit: bytes; an array larger than that is not kept.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> np.ndarray | None:
        """What was put under `key`, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: np.ndarray) -> None:
        """Keeps `value`."""
        with self._lock:
            if key in self._kept or value.nbytes > self.limit:
                return
            self._kept[key] = value
            self._bytes += value.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
