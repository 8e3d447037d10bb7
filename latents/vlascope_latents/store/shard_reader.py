"""Reads the needed bytes of a shard and no others, straight into the array that they are wanted in.

It moves bits: bfloat16 becomes float32 elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import get_codec

from vlascope_latents.store.errors import DamagedError
from vlascope_latents.store.tensors import ROW_DIMS, StoredTensor

_BLOSC: Any = get_codec({"id": "blosc"})


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of one frame of a tensor.

    Attributes:
        rows: positions along the leading axes (those of `ROW_DIMS`), flattened in C order.
        ranges: of the axis after them (token, span, horizon, …), as (start, stop) pairs.
    """

    rows: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, tensor: StoredTensor) -> Part:
        """All of a frame."""
        lead = leading(tensor)
        return cls(tuple(range(math.prod(tensor.shape[:lead]))), ((0, tensor.shape[lead]),))


def leading(tensor: StoredTensor) -> int:
    """How many of the tensor's axes are row axes: all of `ROW_DIMS`, but for the last axis where there is no other."""
    return min(sum(dim in ROW_DIMS for dim in tensor.dims), len(tensor.dims) - 1)


class ShardReader:
    """Reads from shards, from any number of threads. A pickled one begins to count anew.

    Attributes:
        bytes_read: that came from files so far, indices included.
    """

    def __init__(self):
        self.bytes_read = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ShardReader], tuple[()]]:
        # a lock belongs to its process
        return ShardReader, ()

    def read(self, path: Path, tensor: StoredTensor, part: Part, out: np.ndarray) -> None:
        """Fills `out` (contiguous, storage dtype) with `part` of the frame in the file at `path`.

        Raises:
            DamagedError: the file is missing, cut short, or its index is wrong.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DamagedError(f"{path}: cannot read the frame ({error.strerror}): verify the run") from error
        try:
            index = self._index(descriptor, path, tensor)
            target = out.reshape(-1).view(np.uint8)
            if tensor.compressed:
                self._read_compressed(descriptor, path, tensor, index, part, target)
            else:
                for offset, start, stop in _merged(_segments(tensor, index, part)):
                    self._fill(descriptor, path, offset, target[start:stop])
        finally:
            os.close(descriptor)

    def _index(self, descriptor: int, path: Path, tensor: StoredTensor) -> np.ndarray:
        size = os.fstat(descriptor).st_size
        least = tensor.index_nbytes + (0 if tensor.compressed else tensor.nbytes)
        if size < least or (size > least and not tensor.compressed):
            raise DamagedError(f"{path}: damaged: expected {least} bytes, found {size}: verify the run")
        content = np.empty(tensor.index_nbytes, np.uint8)
        self._fill(descriptor, path, size - tensor.index_nbytes, content)
        if google_crc32c.value(content[:-4].tobytes()).to_bytes(4, "little") != content[-4:].tobytes():
            raise DamagedError(f"{path}: damaged: the checksum of its index is wrong: verify the run")
        index = content[:-4].view("<u8").reshape(-1, 2)
        if int(index.max()) > size or int(index.sum(1).max()) > size - tensor.index_nbytes:
            raise DamagedError(f"{path}: damaged: its index points outside the file: verify the run")
        return index

    def _read_compressed(self, descriptor, path, tensor, index, part, target) -> None:
        lead = leading(tensor)
        per_row, tokens = tensor.grid[lead], tensor.chunk[lead]
        item = tensor.nbytes // math.prod(tensor.shape[: lead + 1])
        at = 0
        for row in part.rows:
            for start, stop in part.ranges:
                for chunk in range(start // tokens, -(-stop // tokens)):
                    offset, nbytes = (int(n) for n in index[row * per_row + chunk])
                    packed = np.empty(nbytes, np.uint8)
                    self._fill(descriptor, path, offset, packed)
                    try:
                        plain = np.frombuffer(bytes(_BLOSC.decode(packed)), np.uint8)
                    except (RuntimeError, ValueError) as error:
                        raise DamagedError(f"{path}: damaged: a chunk does not decompress: verify the run") from error
                    low, high = max(start, chunk * tokens), min(stop, (chunk + 1) * tokens)
                    piece = plain[(low - chunk * tokens) * item : (high - chunk * tokens) * item]
                    target[at : at + piece.size] = piece
                    at += piece.size

    def _fill(self, descriptor: int, path: Path, offset: int, target: np.ndarray) -> None:
        view = target.data
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                raise DamagedError(f"{path}: damaged: it ends at byte {offset + done}: verify the run")
            done += count
        with self._lock:
            self.bytes_read += done


def _segments(tensor: StoredTensor, index: np.ndarray, part: Part) -> Iterator[tuple[int, int, int]]:
    """(offset in the file, start and stop in the target) of every piece of an inner chunk."""
    lead = leading(tensor)
    per_row, tokens = tensor.grid[lead], tensor.chunk[lead]
    item = tensor.nbytes // math.prod(tensor.shape[: lead + 1])
    at = 0
    for row in part.rows:
        offsets = index[row * per_row : (row + 1) * per_row, 0].tolist()
        for start, stop in part.ranges:
            for chunk in range(start // tokens, -(-stop // tokens)):
                low, high = max(start, chunk * tokens), min(stop, (chunk + 1) * tokens)
                size = (high - low) * item
                yield offsets[chunk] + (low - chunk * tokens) * item, at, at + size
                at += size


def _merged(segments: Iterator[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Joins pieces that touch in the file: they touch in the target anyway."""
    current: tuple[int, int, int] | None = None
    for offset, start, stop in segments:
        if current is not None and current[0] + current[2] - current[1] == offset:
            current = (current[0], current[1], stop)
            continue
        if current is not None:
            yield current
        current = (offset, start, stop)
    if current is not None:
        yield current
