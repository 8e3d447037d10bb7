"""Takes the frames of one episode from a policy and commits them in order.

1. `append` copies a frame into bounded memory and returns its number: a ticket.
2. A worker thread writes one durable shard a tensor, with its checksum.
3. Whoever completes the oldest frame grows the arrays and appends the index lines of all that are complete: committed.
4. A write that fails fails the episode: what is committed stays, nothing is committed after it.

The episodes of a run share memory and workers (`RunResources`), and nothing else.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from vlascope_base.text import counted, printable

from vlascope_latents.layout import ModelLayout
from vlascope_latents.store.budget import FrameBuffers
from vlascope_latents.store.durable import BlockingStore
from vlascope_latents.store.errors import StoreError, remedy
from vlascope_latents.store.frame_slot import FrameSlot, check_tensors
from vlascope_latents.store.index import DECODED, FrameLine, IndexWriter, encode_values
from vlascope_latents.store.run_folder import split_folder
from vlascope_latents.store.sealing import (
    EPISODES,
    check_metadata,
    check_said_at_end,
    read_attributes,
    seal_episode,
)
from vlascope_latents.store.table import EpisodeRow
from vlascope_latents.store.tensors import StoredTensor, group_metadata


@dataclasses.dataclass(frozen=True)
class RunResources:
    """What the episodes of a run share.

    Attributes:
        path: the run's folder.
        store: where its arrays go.
        buffers: memory for frames on their way to disk.
        workers: threads that write.
        layout: of the model.
        block: whether a frame waits for room where the queue is full; else it is dropped.
    """

    path: Path
    store: BlockingStore
    buffers: FrameBuffers
    workers: Executor
    layout: ModelLayout
    block: bool


class EpisodeWriter:
    """One attempt at an episode; made by `RunWriter.open_episode`.

    Attributes:
        id: the episode's id.
        folder: its group and index file.
        attempt: at this id, from 1.
        state: `open`, `draining`, `sealed` or `interrupted`.
        tensors: the arrays of a frame.
        committed: frames that are on disk and in the index.
        committed_bytes: of their tensors.
        dropped: frames that found the queue full, with `on_full="drop"`.
    """

    def __init__(
        self,
        run: RunResources,
        folder: str,
        tensors: tuple[StoredTensor, ...],
        index: IndexWriter,
        on_sealed: Callable[[EpisodeWriter, EpisodeRow | None], None],
    ):
        """Takes over `index`, and calls `on_sealed` once it is closed: with its row, or None where it could not be sealed."""
        self.id, self.attempt = split_folder(folder)
        self.folder, self.tensors = folder, tensors
        self.state = "open"
        self.committed = self.committed_bytes = 0
        self._dropped_timesteps: list[int] = []
        self._run, self._index, self._on_sealed = run, index, on_sealed
        self._appending = threading.Lock()
        self._committing = threading.Lock()
        self._changed = threading.Condition()
        self._next = 0
        self._pending = 0
        self._ready: dict[int, FrameLine] = {}
        self._value_shapes: dict[str, tuple[str, list[int]]] | None = None
        self._error: BaseException | None = None
        self._commit_failed = False

    @property
    def dropped(self) -> int:
        """Frames left out because the queue was full."""
        return len(self._dropped_timesteps)

    @property
    def pending(self) -> int:
        """Frames that wait or are being written."""
        return self._pending

    def append(
        self, tensors: Mapping[str, np.ndarray], timestep: int, values: Mapping[str, object] | None = None
    ) -> int | None:
        """Queues one frame; the arrays may be used again when this returns.

        Args:
            tensors: by path, arrays of the plan's shapes: float32, bfloat16, or uint16 bits of bfloat16.
            timestep: environment step.
            values: by name, numbers and small arrays of numbers; `annotations` may be a map of them. Names, shapes and
                dtypes are those of the episode's first frame. `decode_steps` maps each expert of which decode steps are kept
                to how many of them are real.

        Returns:
            The frame's number, a ticket: it exists once `committed` is above it. None where it was dropped.

        Raises:
            StoreError: a tensor or value does not fit, the episode is closed, or an earlier frame could not be written.
        """
        check_tensors(self.tensors, tensors)
        slot = self.reserve()
        if slot is None:
            self.drop(timestep)
            return None
        try:
            number = slot.number(timestep, values)
            slot.fill(tensors)
        finally:
            slot.release()
        return number

    def reserve(self) -> FrameSlot | None:
        """Room for one frame that is still to come; None where the queue is full and frames are then dropped.

        Raises:
            StoreError: the episode is closed, or an earlier frame could not be written.
        """
        self._check_open()
        buffers = self._run.buffers.acquire(self.tensors, wait=self._run.block)
        return None if buffers is None else FrameSlot(self, buffers)

    def describe(self, metadata: Mapping[str, object]) -> None:
        """Replaces what is kept of the episode: what only its first frame tells, where it was begun before that.

        Raises:
            StoreError: `metadata` cannot be kept, the episode is closed, or the disk is full.
        """
        check_metadata(metadata)
        with self._appending:
            self._check_open()
            key = f"{EPISODES}/{self.folder}"
            attributes = {**(read_attributes(self._run.store, key) or {}), "metadata": dict(metadata)}
            try:
                self._run.store.put(f"{key}/zarr.json", group_metadata(attributes))
            except OSError as error:
                raise self._failure(error) from error

    def drop(self, timestep: int) -> None:
        """Counts a frame that found no room."""
        self._dropped_timesteps.append(int(timestep))

    def take_number(self, timestep: int, values: Mapping[str, object] | None) -> FrameLine:
        """The line of the next frame; what `FrameSlot.number` does."""
        encoded = encode_values(values, self._run.layout.names)
        self._check_decoded(encoded)
        with self._appending:
            self._check_open()  # it may have failed or been closed since there was room
            self._check_values(encoded)
            line = FrameLine(self._next, int(timestep), sum(t.nbytes for t in self.tensors), {}, self.dropped, encoded)
            self._next += 1
            with self._changed:
                self._pending += 1
            return line

    def queue(self, line: FrameLine, buffers: list[np.ndarray]) -> None:
        """Hands a filled frame to the workers; what `FrameSlot.fill` does."""
        self._run.workers.submit(self._write, line, buffers)

    def give_back(self, buffers: list[np.ndarray]) -> None:
        """Frees the room of a frame that never got a number."""
        self._run.buffers.release(self.tensors, buffers)

    def fail(self, error: BaseException, buffers: list[np.ndarray]) -> None:
        """Ends the episode's writing: a frame that has a number will never come."""
        self._error = self._error or error
        self._run.buffers.release(self.tensors, buffers)
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def seal(
        self,
        success: bool | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> int:
        """Waits until every frame is committed, then closes the episode for good.

        Args:
            success: whether it reached its goal; None where nobody knows.
            total_steps: environment steps; None where nobody knows.
            metadata: JSON that only the end tells, kept beside what the episode began with, under other names.

        Returns:
            How many frames are committed: every one of them is on disk.

        Raises:
            StoreError: `metadata` cannot be kept, and the episode is still open; the episode was closed before; or a frame
                could not be written; then it is sealed as `interrupted` with what was committed, and nothing of what is said
                here, where the disk still takes that.
        """
        if metadata:
            begun = read_attributes(self._run.store, f"{EPISODES}/{self.folder}") or {}
            check_said_at_end(metadata, begun.get("metadata", {}))
        return self._close("sealed", success, total_steps, metadata)

    def interrupt(self) -> int:
        """`seal` for an episode whose client vanished: status `interrupted`, nothing said of success."""
        return self._close("interrupted")

    def _close(
        self,
        status: str,
        success: bool | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> int:
        with self._appending:
            if self.state != "open":
                raise StoreError(f"episode {self.folder}: expected an open episode, found it {self.state}")
            self.state = "draining"
        with self._changed:
            self._changed.wait_for(lambda: self._pending == 0)
        error = self._error
        row = None
        try:
            try:
                row = seal_episode(
                    self._run.path, self._run.store, self.folder, status="interrupted" if error else status,
                    success=None if error else success, total_steps=None if error else total_steps,
                    metadata=None if error else metadata, dropped_timesteps=self._dropped_timesteps,
                )  # fmt: skip
            finally:
                self._index.close()
                self.state = row.status if row else "interrupted"
                self._on_sealed(self, row)
        except OSError as sealing_error:
            error = error or sealing_error
        if error:
            raise self._failure(error) from error
        return self.committed

    def _write(self, line: FrameLine, buffers: list[np.ndarray]) -> None:
        """On a worker: writes one frame's shards, then commits what is complete."""
        try:
            try:
                checksums = {}
                for tensor, buffer in zip(self.tensors, buffers, strict=True):
                    checksums[tensor.path] = xxhash.xxh3_64_hexdigest(buffer[: tensor.nbytes].data)
                    self._run.store.put(f"{EPISODES}/{self.folder}/{tensor.path}/{tensor.key(line.frame)}", buffer)
            finally:
                self._run.buffers.release(self.tensors, buffers)
            self._commit(dataclasses.replace(line, xxh3=checksums))
        except Exception as error:  # reported by the next append and by seal: a worker has nobody to raise to
            self._error = self._error or error
        finally:
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()

    def _commit(self, line: FrameLine) -> None:
        with self._committing:
            self._ready[line.frame] = line
            complete = []
            while (number := self.committed + len(complete)) in self._ready:
                complete.append(self._ready[number])
            if not complete or self._commit_failed:
                return
            count = self.committed + len(complete)
            try:
                for tensor in self.tensors:
                    self._run.store.put(f"{EPISODES}/{self.folder}/{tensor.path}/zarr.json", tensor.metadata(count))
                self._index.append(complete)
            except OSError:
                self._commit_failed = True
                raise
            for done in complete:
                del self._ready[done.frame]
            self.committed = count
            self.committed_bytes += sum(done.nbytes for done in complete)

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._failure(self._error) from self._error
        if self.state != "open":
            raise StoreError(
                f"episode {self.folder}: is {self.state} and never reopens: open {self.id} again for a new attempt"
            )

    def _failure(self, error: BaseException) -> StoreError:
        what = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        done = counted(self.committed, "frame is committed", "frames are committed")
        advice = f"{remedy(error)}, then " if isinstance(error, OSError) else ""
        return StoreError(
            f"{self._run.path}: episode {self.folder} could not be written ({what}): {done}; {advice}start a new attempt"
        )

    def _check_decoded(self, encoded: Mapping[str, Any]) -> None:
        """The axis `decode_step` is padded: without how many of its steps are real, nobody can read it."""
        for tensor in self.tensors:
            expert = tensor.path.partition("/")[0]
            if "decode_step" in tensor.dims and f"{DECODED}/{expert}" not in encoded:
                raise StoreError(
                    f"frame, {tensor.path}: expected how many of its decode steps are real, as values={{{DECODED!r}: "
                    f"{{{expert!r}: …}}}}, found {', '.join(encoded) or 'no values'}"
                )

    def _check_values(self, encoded: Mapping[str, Any]) -> None:
        shapes = {name: (value["dtype"], value["shape"]) for name, value in encoded.items()}
        if self._value_shapes is None:
            self._value_shapes = shapes
        elif shapes != self._value_shapes:
            for name in sorted({*shapes, *self._value_shapes}):
                first, now = self._value_shapes.get(name, "nothing"), shapes.get(name, "nothing")
                if first != now:
                    raise StoreError(f"frame, value {name}: expected {first} as in the first frame, found {now}")
