"""Memory for frames on their way to disk: bounded in bytes, and used again.

Reuse matters: fresh buffers of tens of megabytes cost several times the copy into them in page faults.
"""

from __future__ import annotations

import threading
from collections import defaultdict

import numpy as np

from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.tensors import StoredTensor


class FrameBuffers:
    """Buffers for whole frames, each a uint8 array a tensor: payload, then the index of an uncompressed shard.

    Attributes:
        limit: bytes that all buffers together may take, free ones included.
        allocated: bytes that they take.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.allocated = 0
        self._free: dict[tuple[StoredTensor, ...], list[list[np.ndarray]]] = defaultdict(list)
        self._changed = threading.Condition()

    def check(self, tensors: tuple[StoredTensor, ...]) -> None:
        """Raises StoreError where not even one frame of `tensors` fits."""
        size = _size(tensors)
        if size > self.limit:
            raise StoreError(f"memory_bytes: one frame takes {size} bytes, found {self.limit}: raise it")

    def acquire(self, tensors: tuple[StoredTensor, ...], *, wait: bool) -> list[np.ndarray] | None:
        """Buffers for one frame; where there is no room, waits for it or returns None."""
        size = _size(tensors)
        with self._changed:
            while True:
                if self._free[tensors]:
                    return self._free[tensors].pop()
                if self.allocated + size <= self.limit:
                    self.allocated += size
                    break
                if self._evict():
                    continue
                if not wait:
                    return None
                self._changed.wait()
        buffers = []
        for tensor in tensors:
            buffer = np.empty(tensor.nbytes + tensor.index_nbytes, np.uint8)
            buffer[tensor.nbytes :] = np.frombuffer(tensor.plain_index, np.uint8)
            buffers.append(buffer)
        return buffers

    def release(self, tensors: tuple[StoredTensor, ...], buffers: list[np.ndarray]) -> None:
        """Gives buffers back."""
        with self._changed:
            self._free[tensors].append(buffers)
            self._changed.notify_all()

    @property
    def in_use(self) -> int:
        """Bytes of the frames that wait or are being written."""
        with self._changed:
            return self.allocated - sum(len(free) * _size(tensors) for tensors, free in self._free.items())

    def _evict(self) -> bool:
        """Frees a buffer that another kind of frame left behind."""
        for tensors, free in self._free.items():
            if free:
                free.pop()
                self.allocated -= _size(tensors)
                return True
        return False


def _size(tensors: tuple[StoredTensor, ...]) -> int:
    return sum(tensor.nbytes + tensor.index_nbytes for tensor in tensors)
