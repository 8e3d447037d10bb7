"""Recorded frames through a policy, batch by batch: what is read, computed and stored goes on at the same time.

1. The frames of all episodes stand in one row, which is cut into batches; the last one may be shorter. Which frames share a
   batch, and at which place, follows from that alone: a capture that is resumed computes the same batches.
2. One thread reads and prepares batches ahead, one runs the program, one stores what came of it, in order.
3. An episode is opened in the store at its first frame and sealed after its last. Batches without a frame of an episode that is
   still to be captured are left out.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from vlascope_base.text import counted, printable
from vlascope_latents import CapturePlan
from vlascope_latents.store import EpisodeWriter, RunWriter

from vlascope_server.capturing.options import CaptureError
from vlascope_server.capturing.recording import Moment, Recording
from vlascope_server.policies.contract import Outcome, Policy, Prepared, Program, frame_values
from vlascope_server.robots import RobotInputError

_log = logging.getLogger(__name__)

T = TypeVar("T")

Place = tuple[int, int]
"""An episode of a recording, and a frame of it."""

_AHEAD = 2
"""Batches that are prepared before the program needs them, and batches that wait to be stored."""
_BLOCK = 32
"""Frames of an episode that are read together: a video is decoded in one go, and no whole episode has to fit into memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Observations that run together.

    Attributes:
        places: of each.
        prepared: as the policy computes with them.
        drawn: what each one's inference draws.
        annotations: stored with each.
    """

    places: tuple[Place, ...]
    prepared: Sequence[Prepared]
    drawn: Sequence[np.ndarray | None]
    annotations: Sequence[dict[str, np.ndarray]]


class FrameWarnings:
    """Gathers what a policy warns of, such as a prompt that is too long, for one line about all frames."""

    def __init__(self):
        self._frames, self._first = 0, ""

    def add(self, place: str, warnings: Sequence[str]) -> None:
        """Warnings of one frame."""
        if warnings:
            self._frames += 1
            self._first = self._first or f"{place}: {printable('; '.join(warnings))}"

    def log(self, frames: int) -> None:
        """One warning, where there was any among so many frames."""
        if self._frames:
            _log.warning("%d of %s, the first %s", self._frames, counted(frames, "frame"), self._first)


def batches_of(lengths: Sequence[int], size: int, done: Collection[int]) -> list[tuple[Place, ...]]:
    """The batches in which something is to be captured.

    Args:
        lengths: frames of each episode.
        size: of a batch.
        done: episodes that are stored already.
    """
    row = [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    batches = [tuple(row[first : first + size]) for first in range(0, len(row), size)]
    return [batch for batch in batches if any(episode not in done for episode, _ in batch)]


def prepared_batches(
    policy: Policy[Any], recording: Recording, batches: Sequence[tuple[Place, ...]], warnings: FrameWarnings
) -> Iterator[Batch]:
    """Reads and prepares batches, one after the other; adds what the policy warns of to `warnings`.

    Raises:
        CaptureError: an observation is not the robot's; names where it was recorded.
        VlascopeError: a file is missing or damaged.
    """
    moments = _moments(recording, [place for batch in batches for place in batch])
    for places in batches:
        prepared, annotations = [], []
        for (episode, frame), moment in zip(places, moments, strict=False):
            try:
                prepared.append(policy.prepare(moment.observation))
            except RobotInputError as error:
                raise CaptureError(
                    f"{recording.place(episode, frame)}: {error}; give the --checkpoint of a policy that reads this, or leave"
                    " the episode out with --episodes"
                ) from None
            warnings.add(recording.place(episode, frame), prepared[-1].warnings)
            annotations.append(dict(moment.annotations))
        seeds = [recording.episodes[episode].seeds[frame] for episode, frame in places]
        yield Batch(places, prepared, [policy.draw(seed) for seed in seeds], annotations)


def capture_batches(
    program: Program,
    batches: Iterable[Batch],
    store: Callable[[Batch, Outcome], None],
) -> None:
    """Runs a program on every batch, while the next are made and the last are stored.

    Args:
        program: of batches as large as these.
        batches: made by a thread of their own.
        store: called with each batch and its outcome, in order, on a thread of its own.

    Raises:
        Exception: whatever making a batch or `store` raised; no further batch is stored then.
    """
    failed = threading.Event()

    def store_next(batch: Batch, outcome: Outcome) -> None:
        if failed.is_set():
            return
        try:
            store(batch, outcome)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(1, "reading") as reading, ThreadPoolExecutor(1, "storing") as storing:
        waiting: collections.deque[Future[None]] = collections.deque()
        try:
            for batch in _ahead(batches, reading):
                outcome = program.run(batch.prepared, batch.drawn)
                while len(waiting) >= _AHEAD:
                    waiting.popleft().result()
                waiting.append(storing.submit(store_next, batch, outcome))
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            reading.shutdown(wait=False, cancel_futures=True)


class EpisodeStorer:
    """Stores outcomes of batches as episodes of a run; used by one thread at a time."""

    def __init__(
        self,
        run: RunWriter,
        plan: CapturePlan,
        policy: Policy[Any],
        recording: Recording,
        ids: Sequence[str],
        done: Collection[int],
        stored: Callable[[int], None],
    ):
        """Stores nothing yet.

        Args:
            run: open for writing.
            plan: of each frame.
            policy: that the outcomes are of.
            recording: that the batches are made of.
            ids: of each episode in the store.
            done: episodes that are stored already, whose frames are left out.
            stored: told how many frames were stored so far, after each batch.
        """
        self._run, self._plan, self._policy, self._recording = run, plan, policy, recording
        self._ids, self._done, self._stored = ids, done, stored
        self._writer: EpisodeWriter | None = None
        self._frames = 0

    def store(self, batch: Batch, outcome: Outcome) -> None:
        """Stores the rows of a batch; waits for the device, and where the queue is full for the disk.

        Raises:
            StoreError: the disk is full, or a frame does not fit its episode.
        """
        actions = np.asarray(outcome.actions)
        latents = {path: np.asarray(array) for path, array in outcome.latents.items()}
        decoded = {expert: np.asarray(steps) for expert, steps in outcome.decode_steps.items()}
        for row, (episode, frame) in enumerate(batch.places):
            if episode in self._done:
                continue
            recorded, prepared = self._recording.episodes[episode], batch.prepared[row]
            if frame == 0:
                metadata = {**recorded.metadata, "instruction": prepared.prompt}
                self._writer = self._run.open_episode(self._ids[episode], metadata, self._plan)
            writer = self._writer
            assert writer is not None, "frames of an episode come in order"  # noqa: S101
            executed = self._policy.robot_actions(actions[row], prepared)
            seed = None if batch.drawn[row] is None else recorded.seeds[frame]
            values = frame_values(prepared, executed, seed, {e: int(steps[row]) for e, steps in decoded.items()})
            if batch.annotations[row]:
                values["annotations"] = batch.annotations[row]
            writer.append({path: array[row] for path, array in latents.items()}, recorded.timesteps[frame], values)
            self._frames += 1
            if frame == len(recorded) - 1:
                writer.seal(recorded.success, recorded.total_steps, recorded.ended)
                self._writer = None
        self._stored(self._frames)


def _ahead(items: Iterable[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """The items, made in order on the pool's one thread, a few before they are asked for."""
    iterator, end = iter(items), object()
    waiting = collections.deque(pool.submit(next, iterator, end) for _ in range(_AHEAD))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(pool.submit(next, iterator, end))
        yield item  # pyright: ignore[reportReturnType]


def _moments(recording: Recording, places: Sequence[Place]) -> Iterator[Moment]:
    """Frames in order; those that follow each other in an episode are read together."""
    at = 0
    while at < len(places):
        episode, first = places[at]
        stop = at + 1
        while stop < len(places) and stop - at < _BLOCK and places[stop] == (episode, first + stop - at):
            stop += 1
        yield from recording.moments(episode, first, first + stop - at)
        at = stop
