"""Writes one run: makes its folder, opens episodes in it, and puts right what a killed process left there."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TextIO, TypedDict, Unpack

from zarr.abc.store import Store

from vlascope_latents.layout import ModelLayout
from vlascope_latents.plan import CapturePlan
from vlascope_latents.store.budget import FrameBuffers
from vlascope_latents.store.durable import BlockingStore, DurableStore
from vlascope_latents.store.episode_writer import EpisodeWriter, RunResources
from vlascope_latents.store.errors import StoreError, remedy
from vlascope_latents.store.index import IndexWriter
from vlascope_latents.store.recovery import Recovery, discard_episode, recover_run
from vlascope_latents.store.run_folder import (
    INDEX_FOLDER,
    LOCK_FILE,
    TABLE_FILE,
    ZARR_FOLDER,
    ReadableBy,
    RunInfo,
    check_episode_id,
    create_run_folder,
    episode_folder,
    read_run,
    split_folder,
    split_id,
)
from vlascope_latents.store.sealing import EPISODES, check_metadata
from vlascope_latents.store.table import EpisodeRow, read_table, write_table
from vlascope_latents.store.tensors import StoredTensor, group_metadata, stored_tensors

OnFull = Literal["block", "drop"]

_log = logging.getLogger(__name__)


class WriterOptions(TypedDict, total=False):
    """How a run is written; each has a default.

    Attributes:
        memory_bytes: bound of everything queued; 1 GiB unless told.
        workers: threads that write; 4.
        on_full: whether a frame that finds the queue full waits (`block`, the default) or is left out (`drop`).
        open_store: makes a Zarr store of a path; durable local files.
    """

    memory_bytes: int
    workers: int
    on_full: OnFull
    open_store: Callable[[Path], Store]


class RunWriter:
    """One run, open for writing by this process alone. Use as a context manager: leaving it closes what is open.

    Every method may be called from any thread.

    Attributes:
        path: the run's folder.
        info: what its run.json says.
        recovered: what opening it put right; None for a new run.
    """

    def __init__(
        self, path: Path, *, memory_bytes: int = 1 << 30, workers: int = 4, on_full: OnFull = "block",
        open_store: Callable[[Path], Store] = DurableStore,
    ):  # fmt: skip
        if on_full not in ("block", "drop"):
            raise StoreError(f"on_full: expected block or drop, found {on_full!r}")
        if workers < 1:
            raise StoreError(f"workers: expected at least 1, found {workers}")
        self.path = path
        self.info: RunInfo = read_run(path)
        self.recovered: Recovery | None = None
        self._lock_file = lock_run(path)
        self._buffers = FrameBuffers(memory_bytes)
        self._store = BlockingStore(open_store(path / ZARR_FOLDER))
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="latent-store-writer")
        self._resources = RunResources(
            path, self._store, self._buffers, self._workers, self.info.layout, block=on_full == "block"
        )
        self._lock = threading.RLock()
        self._table = threading.Lock()
        self._discarding = threading.Lock()
        self._open: dict[str, EpisodeWriter] = {}
        self._opening: set[str] = set()
        self._rows: dict[str, EpisodeRow] = {}
        self._attempts: dict[str, int] = {}
        self._refused: set[str] = set()
        self._table_behind = False
        self._committed = self._dropped = self._bytes = 0
        self._closed = False

    @classmethod
    def create(
        cls, root: str | os.PathLike, name: str, layout: ModelLayout, model: Mapping[str, object] | None = None, *,
        readable_by: ReadableBy = "owner", **options: Unpack[WriterOptions]
    ) -> RunWriter:  # fmt: skip
        """Makes a new run `<root>/<time>-<name>`.

        Args:
            root: folder of runs; made where it is missing.
            name: of the checkpoint, as a rule.
            layout: of the model: the spans that every episode of this run has.
            model: anything JSON that says which model this was: fingerprint, configuration, git revision.
            readable_by: who may read the run, and `root` where it is made here: its `owner` alone, its `group`, or `everyone`.
            **options: see `WriterOptions`.

        Raises:
            StoreError: the folder cannot be written, or a name or option is wrong.
        """
        path = create_run_folder(Path(root), name, layout, model or {}, readable_by)
        try:
            run = cls(path, **options)
            try:
                run._store.put("zarr.json", group_metadata())
                run._store.put(f"{EPISODES}/zarr.json", group_metadata())
            except BaseException:
                run.close()
                raise
        except BaseException as error:
            shutil.rmtree(path, ignore_errors=True)  # a run that could not be opened leaves no folder
            if isinstance(error, OSError):
                raise StoreError(f"{path}: cannot be written ({error.strerror}): make room") from error
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike, **options: Unpack[WriterOptions]) -> RunWriter:
        """Opens an existing run for more episodes; first puts right what a killed process left (`recovered`).

        Raises:
            StoreError: there is no run, or another process writes it.
        """
        run = cls(Path(path), **options)
        try:
            run.recovered = recover_run(run.path, run._store)
            run._rows = {row.folder: row for row in read_table(run.path / TABLE_FILE)}
        except BaseException as error:
            run.close()
            if isinstance(error, OSError):
                raise StoreError(f"{path}: cannot be recovered ({error.strerror}): make room") from error
            raise
        for folder in run._rows:
            episode_id, attempt = split_folder(folder)
            run._attempts[episode_id] = max(attempt, run._attempts.get(episode_id, 0))
        return run

    @classmethod
    def recover(cls, path: str | os.PathLike) -> Recovery:
        """Puts right what a killed process left in the run at `path`, and closes it again."""
        with cls.open(path, workers=1) as run:
            return run.recovered or Recovery()

    def open_episode(
        self, episode_id: str | None, metadata: Mapping[str, object] | None, plan: CapturePlan
    ) -> EpisodeWriter:
        """Starts an attempt at an episode.

        Args:
            episode_id: a name (`[A-Za-z0-9._-]{1,96}`) or `CAMPAIGN+NAME`; None for one made here. The id of a closed
                episode starts a new attempt.
            metadata: JSON: suite, task_id, task_name, `instruction` (what the policy is told), `task_instruction` (what the
                scene's own task says), episode_index, init_state, seed, …
            plan: what its frames hold.

        Raises:
            StoreError: the id is no name or is open already, `metadata` cannot be kept (`check_metadata`), a frame does not
                fit in memory, or the disk is full. A refused
                opening leaves nothing: neither files nor, where those could be removed, a used attempt number.
        """
        episode_id = f"episode-{uuid.uuid4().hex[:12]}" if episode_id is None else check_episode_id(episode_id)
        tensors = stored_tensors(plan, self.info.layout)
        self._buffers.check(tensors)
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path}: the run is closed: open it again")
            if episode_id in self._open or episode_id in self._opening:
                raise StoreError(f"episode {episode_id}: is open already: seal it before the next attempt")
            self._opening.add(episode_id)
            attempt = self._attempts.get(episode_id, 0) + 1
        folder = episode_folder(episode_id, attempt)
        try:
            # without the lock: what waits for the disk here holds up no other episode
            self._discard_refused()
            try:
                episode = self._make_episode(episode_id, folder, attempt, metadata, plan, tensors)
            except BaseException:
                self._refused.add(folder)
                self._discard_refused()
                raise
            with self._lock:
                self._attempts[episode_id] = attempt
                self._open[episode_id] = episode
            return episode
        finally:
            with self._lock:
                if folder in self._refused:  # what is left there must not become part of the next attempt
                    self._attempts[episode_id] = attempt
                self._opening.discard(episode_id)

    def discard(self, episode_id: str) -> None:
        """Removes every attempt at an episode, none of which was sealed: it can be captured anew, as its first attempt.

        Nothing happens where there is none. A kill meanwhile leaves attempts that another call removes.

        Raises:
            StoreError: it is open or sealed, or the disk does not take it.
        """
        with self._lock:
            folders = [folder for folder, row in self._rows.items() if row.episode == episode_id]
            sealed = [folder for folder in folders if self._rows[folder].status == "sealed"]
            if sealed or episode_id in self._open or episode_id in self._opening:
                found = f"{sealed[0]} is sealed" if sealed else "it is open"
                raise StoreError(
                    f"{self.path}: episode {episode_id}: {found}; expected interrupted attempts to discard"
                )
            for folder in folders:
                del self._rows[folder]
            self._attempts.pop(episode_id, None)
        if not folders:
            return
        try:
            # first the table: what is gone must not be listed
            with self._table:
                write_table(self.path / TABLE_FILE, list(self._rows.values()))
            for folder in folders:
                discard_episode(self.path, self._store, folder)
        except OSError as error:
            raise StoreError(f"{self.path}: episode {episode_id} cannot be discarded ({error.strerror})") from error

    def _discard_refused(self) -> None:
        """Removes what refused openings left; what cannot be removed now is tried again at the next opening and the close."""
        if not self._refused:
            return
        with self._discarding:  # a folder that another thread still removes must not be made again
            for folder in list(self._refused):
                try:
                    discard_episode(self.path, self._store, folder)
                except OSError as error:
                    _log.warning(
                        "%s: refused episode %s is still to be removed (%s)", self.path, folder, error.strerror
                    )
                    return
                self._refused.discard(folder)

    def _make_episode(
        self,
        episode_id: str,
        folder: str,
        attempt: int,
        metadata: Mapping[str, object] | None,
        plan: CapturePlan,
        tensors: tuple[StoredTensor, ...],
    ) -> EpisodeWriter:
        base = f"{EPISODES}/{folder}"
        attributes = {"episode": episode_id, "campaign": split_id(episode_id)[0], "attempt": attempt, "status": "open",
                      "metadata": dict(metadata or {}), "experts": list(self.info.layout.names),
                      "capture_spec": plan.spec.to_map()}  # fmt: skip
        try:
            check_metadata(attributes["metadata"])
        except StoreError as error:
            raise StoreError(f"episode {episode_id}, {error}") from error
        content = group_metadata(attributes)
        index = None
        try:
            for group in dict.fromkeys(tensor.path.split("/")[0] for tensor in tensors):
                self._store.put(f"{base}/{group}/zarr.json", group_metadata())
            for tensor in tensors:
                self._store.put(f"{base}/{tensor.path}/zarr.json", tensor.metadata(0))
            index = IndexWriter(self.path / INDEX_FOLDER / f"{folder}.jsonl")
            # the attributes come last: readers see an episode once everything else of it is there
            self._store.put(f"{base}/zarr.json", content)
        except BaseException as error:
            if index is not None:
                index.close()
            if not isinstance(error, OSError):
                raise
            raise StoreError(
                f"{self.path}: cannot open episode {folder} ({error.strerror}): {remedy(error)}"
            ) from error
        return EpisodeWriter(self._resources, folder, tensors, index, self._sealed)

    @property
    def queue(self) -> tuple[int, int]:
        """Bytes of the frames on their way to disk, and how many they may be; never waits for the disk, as `status` may."""
        return self._buffers.in_use, self._buffers.limit

    def status(self) -> dict[str, int]:
        """Frames committed, dropped and pending, bytes committed, queue bytes in use and their limit, episodes open."""
        with self._lock:
            episodes = list(self._open.values())
            return {
                "committed": self._committed + sum(e.committed for e in episodes),
                "bytes": self._bytes + sum(e.committed_bytes for e in episodes),
                "dropped": self._dropped + sum(e.dropped for e in episodes),
                "pending": sum(e.pending for e in episodes),
                "queue_bytes": self._buffers.in_use,
                "queue_limit": self._buffers.limit,
                "episodes_open": len(episodes),
            }

    def close(self) -> None:
        """Interrupts the episodes that are open, and lets another process write.

        Raises:
            StoreError: one of them could not be written; the others are closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            episodes = [episode for episode in self._open.values() if episode.state == "open"]
        failures = []
        for episode in episodes:
            try:
                episode.interrupt()
            except StoreError as error:
                failures.append(error)
        self._workers.shutdown()
        self._discard_refused()
        if self._table_behind:
            self._write_table()
        self._store.close()
        self._lock_file.close()
        if failures:
            raise failures[0]

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # the error that ended the block says more than what it led to here
        with contextlib.suppress(StoreError) if kind else contextlib.nullcontext():
            self.close()

    def _sealed(self, episode: EpisodeWriter, row: EpisodeRow | None) -> None:
        with self._lock:
            self._open.pop(episode.id, None)
            self._committed += episode.committed
            self._bytes += episode.committed_bytes
            self._dropped += episode.dropped
            if row is not None:
                self._rows[row.folder] = row
        if row is not None:
            self._write_table()

    def _write_table(self) -> None:
        """The table is a copy: an episode is sealed by its attributes, whether or not its row can be written now."""
        with self._table:  # not the other one: nobody else has to wait until a table of thousands is written
            with self._lock:
                rows = list(self._rows.values())
            try:
                write_table(self.path / TABLE_FILE, rows)
            except OSError as error:
                self._table_behind = True
                _log.warning(
                    "%s: cannot be written now (%s): it is tried again", self.path / TABLE_FILE, error.strerror
                )
            else:
                self._table_behind = False


def lock_run(path: Path) -> TextIO:
    """The run's lock, held until the returned file is closed or the process dies.

    Raises:
        StoreError: another process holds it, or the folder cannot be written.
    """
    try:
        file = (path / LOCK_FILE).open("a")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}): choose a run that can") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreError(f"{path}: is being written by another process: wait until it ends") from error
    return file
