"""The episodes that clients have open, and their frames on the way to the store.

1. An episode belongs to the connection that began it; its spec is that of its first captured frame.
2. A frame's room in memory is reserved before the policy runs, its number given when actions are known, and it is filled
   on a thread of its own while the client has its actions already.
3. An episode ends by request, or with its connection as `interrupted`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from vlascope_client.wording import short
from vlascope_latents import CapturePlan
from vlascope_latents.store import EpisodeWriter, RunWriter, StoreError
from vlascope_latents.store.frame_slot import FrameSlot

from vlascope_server.policies.checked import PolicyFaultError
from vlascope_server.serving.errors import RequestError
from vlascope_server.serving.messages import EpisodeInfo
from vlascope_server.serving.options import EPISODES_OF_A_CLIENT

_log = logging.getLogger(__name__)

_DISK_LOOK_SECONDS = 1.0
_NO_STORE = "collect_latents: this server has no store: start it with --store, or ask for return_latents"


@dataclasses.dataclass(eq=False)
class OpenEpisode:
    """An episode that is going on.

    Attributes:
        id: as the client knows it.
        owner: the connection that it belongs to.
        metadata: what the client said of it.
        implicit: it is the one of a connection that names none.
        plan: of its frames, once there is one.
        instruction: what the policy was told for its frames, once there is one.
        writer: once there is a frame.
        accepted: some message of it was not refused.
        inferences: observations so far.
        annotations: name and shape of each, once there is a frame.
    """

    id: str
    owner: object
    metadata: dict[str, object]
    implicit: bool
    plan: CapturePlan | None = None
    instruction: str | None = None
    writer: EpisodeWriter | None = None
    accepted: bool = False
    inferences: int = 0
    annotations: dict[str, tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Sealed:
    """What became of an episode."""

    episode: OpenEpisode
    status: Literal["sealed", "interrupted"]
    frames: int
    dropped: int
    error: str | None = None


class Episodes:
    """Every open episode of a server. Every method may be called from any thread."""

    def __init__(self, run: RunWriter | None, *, min_free: int = 0, most: int = 1 << 16):
        """Keeps frames in `run`, of `most` episodes at a time; refuses them while the disk has under `min_free` bytes free."""
        self.run = run
        self._min_free, self._most = min_free, most
        self._in_store = 0
        self._open: dict[str, OpenEpisode] = {}
        self._names = itertools.count()
        self._lock = threading.Lock()
        self._sealing: set[str] = set()
        self._sealed = threading.Condition(self._lock)
        self._fillers = ThreadPoolExecutor(2, thread_name_prefix="capture")
        self._free = (0.0, 0)

    def begin(self, owner: object, info: EpisodeInfo, *, implicit: bool = False) -> OpenEpisode:
        """Starts an episode, or finds the one that this owner has open under that id.

        Waits while an attempt at that id is being sealed: a client that connects again goes on with the next one.

        Raises:
            RequestError: another connection has it open.
        """
        with self._lock:
            name = info.id or f"episode-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{next(self._names)}"
            self._sealed.wait_for(lambda: name not in self._sealing)
            found = self._open.get(name)
            if found is None:
                if sum(episode.owner is owner for episode in self._open.values()) >= EPISODES_OF_A_CLIENT:
                    raise RequestError(
                        "overloaded",
                        f"{EPISODES_OF_A_CLIENT} episodes are open on this connection: end one first",
                        "episode",
                    )
                found = self._open[name] = OpenEpisode(name, owner, dict(info.metadata), implicit)
            elif found.owner is not owner:
                raise RequestError(
                    "episode_in_use",
                    f"episode {name}: another connection has it open: end it there, or take another id",
                    "episode.id",
                )
            return found

    def withdraw(self, episode: OpenEpisode) -> None:
        """Forgets an episode whose beginning was refused, or ends it as `interrupted` where the store has it already.

        One that was accepted before stays open.
        """
        with self._lock:
            if self._open.get(episode.id) is not episode or episode.accepted:
                return
            self._leave(episode)
        self._seal(episode, EpisodeWriter.interrupt)

    def end(
        self,
        owner: object,
        name: str,
        success: bool | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Sealed:
        """Seals an episode; waits until its frames are on disk.

        Raises:
            RequestError: this connection has no such episode open, or `metadata` says again what the episode began with, which
                leaves it open.
        """
        with self._lock:
            found = self._open.get(name)
            if found is None or found.owner is not owner:
                mine = [e.id for e in self._open.values() if e.owner is owner]
                raise RequestError(
                    "unknown_episode",
                    f"episode {name}: is not open on this connection; open: {', '.join(mine) or 'none'}",
                    "episode",
                    mine,
                )
            for key in metadata or {}:
                if key in found.metadata:
                    raise RequestError(
                        "invalid_field",
                        f"metadata.{key[:80]}: episode {name} began with one of that name: expected another name",
                        f"metadata.{key[:80]}",
                    )
            self._leave(found)
        return self._seal(found, lambda writer: writer.seal(success, total_steps, metadata))

    def release(self, owner: object, *, clean: bool) -> list[Sealed]:
        """Ends what a connection left open: as `interrupted`, but for its implicit episode where it was closed properly."""
        with self._lock:
            left = [episode for episode in self._open.values() if episode.owner is owner]
            for episode in left:
                self._leave(episode)
        sealed = []
        for episode in left:
            done = clean and episode.implicit
            sealed.append(self._seal(episode, EpisodeWriter.seal if done else EpisodeWriter.interrupt))
        return sealed

    def check_fits(
        self, episode: OpenEpisode, plan: CapturePlan, instruction: str, annotations: Mapping[str, np.ndarray]
    ) -> None:
        """Looks whether a frame is one of the episode; changes nothing.

        Raises:
            RequestError: there is no store, or the frame has another spec, instruction or annotations than those before it.
        """
        if self.run is None:
            raise RequestError("no_store", _NO_STORE, "collect_latents")
        self._check_spec(episode, plan)
        shapes = _shapes_of(annotations)
        if episode.annotations not in (None, shapes):
            raise RequestError(
                "spec_changed",
                f"annotations: episode {episode.id} began with {_shapes(episode.annotations or {})}, found {_shapes(shapes)}",
                "annotations",
            )
        if episode.instruction not in (None, instruction):
            raise RequestError(
                "spec_changed",
                f"prompt: episode {episode.id} was told {short(episode.instruction)}, found {short(instruction)}: an episode"
                " has one instruction; end it first",
                "prompt",
            )

    def reserve(
        self,
        episode: OpenEpisode,
        plan: CapturePlan,
        instruction: str,
        annotations: Mapping[str, np.ndarray],
        timestep: int,
    ) -> FrameSlot | None:
        """Room for the episode's next frame; waits for it, or counts the frame as dropped and returns None.

        Raises:
            RequestError: the frame does not fit the episode, there is no store, or it takes no more.
        """
        self.check_fits(episode, plan, instruction, annotations)
        self.check_disk(episode)
        begun = episode.writer is not None
        episode.metadata["instruction"] = instruction
        writer = self.open_writer(episode, plan)
        try:
            if begun and episode.instruction is None:
                writer.describe(episode.metadata)
            episode.instruction, episode.annotations = instruction, _shapes_of(annotations)
            slot = writer.reserve()
        except StoreError as error:
            raise store_refusal(error) from None
        if slot is None:
            writer.drop(timestep)
        return slot

    def open_writer(self, episode: OpenEpisode, plan: CapturePlan) -> EpisodeWriter:
        """The episode in the store, begun there if it was not; fixes its spec.

        Raises:
            RequestError: there is no store, it cannot take another episode, or the episode has another spec.
        """
        if self.run is None:
            raise RequestError("no_store", _NO_STORE, "collect_latents")
        self._check_spec(episode, plan)
        if episode.writer is None:
            self.check_disk(episode)
            with self._lock:
                if self._in_store >= self._most:
                    raise RequestError(
                        "overloaded",
                        f"{self._most} episodes are open in the store: try again when one has ended",
                        "episode",
                    )
                self._in_store += 1
            try:
                episode.writer = self.run.open_episode(episode.id, episode.metadata, plan)
            except BaseException as error:
                with self._lock:
                    self._in_store -= 1
                if isinstance(error, StoreError):
                    raise store_refusal(error) from None
                raise
            episode.plan = plan
        return episode.writer

    @staticmethod
    def _check_spec(episode: OpenEpisode, plan: CapturePlan) -> None:
        if episode.plan not in (None, plan):
            raise RequestError(
                "spec_changed",
                f"collect_latents: episode {episode.id} began with {episode.plan.spec}, found {plan.spec}: end it first",
                "collect_latents",
            )

    def check_disk(self, episode: OpenEpisode) -> None:
        """Looks whether the store's disk has room for a frame; once a second at most.

        Raises:
            RequestError: it has too little, or is gone.
        """
        if not self._min_free or self.run is None:
            return
        looked, free = self._free
        if time.monotonic() - looked > _DISK_LOOK_SECONDS:
            try:
                free = shutil.disk_usage(self.run.path).free
            except OSError as error:
                raise RequestError(
                    "store_failed", f"{self.run.path}: is gone ({error.strerror}): start a new run"
                ) from None
            self._free = (time.monotonic(), free)
        if free < self._min_free:
            raise RequestError(
                "store_failed",
                f"episode {episode.id}: the store's disk has {free} bytes free, and {self._min_free} are kept free:"
                " make room; what is committed is safe",
            )

    def fill(
        self, slot: FrameSlot, tensors: Callable[[], Mapping[str, np.ndarray]], filled: Callable[[float], None]
    ) -> None:
        """Copies a numbered frame into the queue on another thread; `tensors` may wait for the device.

        Args:
            slot: with a number.
            tensors: gives the frame's arrays.
            filled: told how many seconds that took.
        """

        def work() -> None:
            begun = time.perf_counter()
            try:
                slot.fill(tensors())
            except Exception as error:
                known = isinstance(error, StoreError | OSError)
                _log.error("a frame of episode %s is not stored (%s)", slot.episode.id, error, exc_info=not known)
                slot.release(error)
            filled(time.perf_counter() - begun)

        self._fillers.submit(work)

    def close(self) -> None:
        """Seals what is open as `interrupted`, with every frame that has a number, and closes the run."""
        with self._lock:
            left = list(self._open.values())
            for episode in left:
                self._leave(episode)
        for episode in left:
            self._seal(episode, EpisodeWriter.interrupt)
        self._fillers.shutdown()
        if self.run is not None:
            with contextlib.suppress(StoreError):  # logged where it happened
                self.run.close()

    def _leave(self, episode: OpenEpisode) -> None:
        """Holding the lock: the episode belongs to nobody any more, and its id to nobody else before it is sealed."""
        del self._open[episode.id]
        self._sealing.add(episode.id)

    def _seal(self, episode: OpenEpisode, how: Callable[[EpisodeWriter], int]) -> Sealed:
        try:
            return self._close_writer(episode, how)
        finally:
            with self._lock:
                self._in_store -= episode.writer is not None
                self._sealing.discard(episode.id)
                self._sealed.notify_all()

    def _close_writer(self, episode: OpenEpisode, how: Callable[[EpisodeWriter], int]) -> Sealed:
        writer = episode.writer
        if writer is None:
            return Sealed(episode, "sealed" if how is not EpisodeWriter.interrupt else "interrupted", 0, 0)
        error = None
        try:
            how(writer)
        except StoreError as failure:
            error = str(failure)
            _log.error("%s", failure)
        status = "sealed" if error is None and writer.state == "sealed" else "interrupted"
        return Sealed(episode, status, writer.committed, writer.dropped, error)


def store_refusal(error: StoreError) -> RequestError:
    """What a client is told where the store takes a frame no more; `internal` where that is the policy's fault."""
    code = "internal" if isinstance(error.__cause__, PolicyFaultError) else "store_failed"
    return RequestError(code, str(error))


def _shapes_of(annotations: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in annotations.items()}


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "none"
