"""Room for one frame, taken before there is a frame: a policy that has to wait for memory does so before it runs.

1. `EpisodeWriter.reserve` waits for memory, or finds none.
2. `number` makes it the episode's next frame: a ticket that can be handed out at once.
3. `fill` copies the tensors, when they have come from the device, and queues the frame; or `release` gives the room back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import ml_dtypes
import numpy as np

from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.index import FrameLine
from vlascope_latents.store.tensors import StoredTensor


class FrameTaker(Protocol):
    """What a slot asks of the episode that it is a frame of.

    Attributes:
        id: the episode's id.
        tensors: the arrays of a frame.
    """

    id: str
    tensors: tuple[StoredTensor, ...]

    def take_number(self, timestep: int, values: Mapping[str, object] | None) -> FrameLine:
        """The line of the next frame, without checksums."""
        ...

    def queue(self, line: FrameLine, buffers: list[np.ndarray]) -> None:
        """Takes over a filled frame."""
        ...

    def give_back(self, buffers: list[np.ndarray]) -> None:
        """Takes back the room of a frame that never got a number."""
        ...

    def fail(self, error: BaseException, buffers: list[np.ndarray]) -> None:
        """Ends the episode's writing: a frame that has a number will never come."""
        ...


class FrameSlot:
    """Made by `EpisodeWriter.reserve`; ends with `fill` or `release`, and is used by one thread at a time."""

    def __init__(self, episode: FrameTaker, buffers: list[np.ndarray]):
        self.episode = episode
        self._buffers: list[np.ndarray] | None = buffers
        self._line: FrameLine | None = None

    def number(self, timestep: int, values: Mapping[str, object] | None = None) -> int:
        """Makes this the episode's next frame; from here on it must be filled.

        Args:
            timestep: environment step.
            values: as for `EpisodeWriter.append`.

        Returns:
            The frame's number, a ticket: it exists once `EpisodeWriter.committed` is above it.

        Raises:
            StoreError: a value does not fit, or the episode is closed or has failed; the room is still to be released.
        """
        self._line = self.episode.take_number(timestep, values)
        return self._line.frame

    def fill(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copies the frame and queues it; the arrays may be used again when this returns.

        Raises:
            StoreError: a tensor does not fit. The episode has then failed: its frames have no gaps.
        """
        if self._buffers is None or self._line is None:
            raise StoreError("frame slot: expected one with a number that was not filled yet")
        buffers, self._buffers = self._buffers, None
        try:
            sources = check_tensors(self.episode.tensors, tensors)
            for tensor, source, buffer in zip(self.episode.tensors, sources, buffers, strict=True):
                _copy(tensor, source, buffer)
        except BaseException as error:
            self.episode.fail(error, buffers)
            raise
        self.episode.queue(self._line, buffers)

    def release(self, error: BaseException | None = None) -> None:
        """Gives the room back where nothing was filled; after `number`, that fails the episode with `error`."""
        if self._buffers is None:
            return
        buffers, self._buffers = self._buffers, None
        if self._line is None:
            self.episode.give_back(buffers)
        else:
            self.episode.fail(error or StoreError(f"frame {self._line.frame} was never filled"), buffers)


def check_tensors(expected: tuple[StoredTensor, ...], tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of a frame in the order of `expected`.

    Raises:
        StoreError: one is missing, left over, or of another shape or dtype.
    """
    paths = [tensor.path for tensor in expected]
    if set(tensors) != set(paths):
        raise StoreError(f"frame: expected the tensors {', '.join(paths)}, found {', '.join(tensors) or 'none'}")
    sources = []
    for tensor in expected:
        source = np.asarray(tensors[tensor.path])
        if source.shape != tensor.shape:
            raise StoreError(
                f"frame, {tensor.path}: expected shape {tensor.shape} ({', '.join(tensor.dims)}), found {source.shape}"
            )
        allowed = ("float32", "bfloat16", "uint16") if tensor.dtype == "bfloat16" else (tensor.dtype,)
        if source.dtype.name not in allowed:
            raise StoreError(f"frame, {tensor.path}: expected {' or '.join(allowed)}, found {source.dtype.name}")
        sources.append(source)
    return sources


def _copy(tensor: StoredTensor, source: np.ndarray, buffer: np.ndarray) -> None:
    payload = buffer[: tensor.nbytes]
    if source.dtype.name == "float32" and tensor.dtype == "bfloat16":
        np.copyto(payload.view(ml_dtypes.bfloat16).reshape(tensor.shape), source, casting="unsafe")
    else:
        np.copyto(payload.view(source.dtype).reshape(tensor.shape), source)
