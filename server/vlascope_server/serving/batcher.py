"""Runs observations of many clients in batches, on one thread that owns the device.

1. `submit` puts an observation into the queue of its request shape: different shapes never share a batch.
2. The thread takes the queue whose head has waited longest, of those that have a compiled program.
3. It waits for more until the batch is full, every client that is active has asked, or `max_wait` is over.
4. Actions resolve the futures once the device is done; captured arrays follow on their way to the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError

import numpy as np
from numpy.typing import ArrayLike

from vlascope_server.policies.compile_queue import Asker
from vlascope_server.policies.contract import Outcome, Prepared, Program, RequestShape
from vlascope_server.policies.programs import Programs, ProgramsClosedError

_log = logging.getLogger(__name__)

_ACTIVE_SECONDS = 2.0

_LAST_BATCH_SECONDS = 2.0
"""That the end waits for the batch that is being computed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """What one observation got.

    Attributes:
        actions: as the policy gives them, [action horizon, the policy's action width].
        outcome: of the whole batch; its other arrays may still be on their way from the device.
        row: of this observation in them.
        queue_seconds: from `submit` until its batch began.
        model_seconds: until the device was done.
        batch: observations in the batch.
    """

    actions: np.ndarray
    outcome: Outcome
    row: int
    queue_seconds: float
    model_seconds: float
    batch: int

    @property
    def latents(self) -> Mapping[str, ArrayLike]:
        """By path, what was captured of the whole batch."""
        return self.outcome.latents

    def tensors(self) -> dict[str, np.ndarray]:
        """By path, what was captured of this observation; waits for the copy from the device."""
        return {path: np.asarray(array)[self.row] for path, array in self.latents.items()}

    def decode_steps(self) -> dict[str, int]:
        """By expert whose loop is `decode`, how many of its steps are real; waits for the copy from the device."""
        return {expert: int(np.asarray(counts)[self.row]) for expert, counts in self.outcome.decode_steps.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Item:
    prepared: Prepared
    drawn: np.ndarray | None
    future: Future[Sample]
    since: float
    asker: Asker | None


class Activity:
    """Which clients have asked lately, and with which shape. May be used from any thread."""

    def __init__(self):
        self._last: dict[int, tuple[RequestShape, float]] = {}

    def asked(self, client: object, shape: RequestShape) -> None:
        """Notes an observation."""
        self._last[id(client)] = (shape, time.monotonic())

    def gone(self, client: object) -> None:
        """Forgets a client."""
        self._last.pop(id(client), None)

    def count(self, shape: RequestShape) -> int:
        """Clients that asked with this shape within the last two seconds: they are expected to ask again."""
        since = time.monotonic() - _ACTIVE_SECONDS
        return sum(last > since and asked == shape for asked, last in list(self._last.values()))


class Batcher:
    """The thread, and the queues before it."""

    def __init__(
        self,
        programs: Programs,
        *,
        max_wait: float,
        active_clients: Callable[[RequestShape], int],
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        """Starts the thread.

        Args:
            programs: of the policy whose observations these are.
            max_wait: seconds that an observation waits for others at most.
            active_clients: how many are likely to ask with a shape; where all have, nobody waits.
            on_batch: told of each batch: observations and seconds on the device.
        """
        self._programs = programs
        self._max_wait, self._active_clients, self._on_batch = max_wait, active_clients, on_batch
        self._queues: dict[RequestShape, deque[_Item]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._computing: list[_Item] = []
        programs.on_done = self._compiled
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(
        self, prepared: Prepared, drawn: np.ndarray | None, shape: RequestShape, asker: Asker | None = None
    ) -> Future[Sample]:
        """Queues one observation with what was drawn for it.

        Until its batch begins, cancelling the future takes it out of the queue: nothing is computed for it.

        Raises:
            ProgramsClosedError: the server ends.
            TooManyJobsError: `asker`, the client that waits for it, waits for as many programs as a client may.
        """
        item = _Item(prepared, drawn, Future(), time.perf_counter(), asker)
        self._programs.want(shape, 1, asker)
        with self._changed:
            if self._closed:
                raise ProgramsClosedError("the server is shutting down")
            self._queues.setdefault(shape, deque()).append(item)
            self._changed.notify_all()
        return item.future

    def close(self) -> None:
        """Answers what is queued and can be answered at once, refuses the rest, and ends the thread. May be called again.

        A batch that takes the device long is not waited for: `computing` is true after that.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_LAST_BATCH_SECONDS)
        if self.computing:
            with self._changed:
                self._fail_all(ProgramsClosedError("the server closed before this was computed"))
                _fail(self._computing, ProgramsClosedError("the server closed before this was computed"))

    @property
    def computing(self) -> bool:
        """Whether the thread goes on; nothing can interrupt the device."""
        return self._thread.is_alive()

    def _compiled(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                work = self._next()
            except BaseException as error:  # whatever it is, the thread must live: nobody else answers
                _log.exception("no batch could be chosen")
                self._fail_all(error)
                continue
            if work is None:
                return
            program, items, shape = work
            try:
                self._compute(program, items)
            except BaseException as error:
                _log.exception("a batch of %d failed, %s", len(items), shape)
                _fail(items, error)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            for queue in self._queues.values():
                _fail([item for item in queue if item.future.set_running_or_notify_cancel()], error)
            self._queues.clear()

    def _next(self) -> tuple[Program, list[_Item], RequestShape] | None:
        """Waits for the next batch; None once closed and nothing is left that could run."""
        with self._changed:
            while True:
                chosen = self._oldest()
                if chosen is None:
                    if self._closed:
                        self._fail_all(ProgramsClosedError("the server closed before this was compiled"))
                        return None
                    self._changed.wait()
                    continue
                shape, program, queue = chosen
                wait = queue[0].since + self._max_wait - time.perf_counter()
                enough = min(self._programs.sizes[-1], self._active_clients(shape))
                if len(queue) < enough and wait > 0 and not self._closed:
                    self._changed.wait(wait)
                    continue
                items = [queue.popleft() for _ in range(min(program.size, len(queue)))]
                if not queue:
                    del self._queues[shape]
                # from here on they cannot be cancelled
                if items := [item for item in items if item.future.set_running_or_notify_cancel()]:
                    self._computing = items
                    return program, items, shape

    def _oldest(self) -> tuple[RequestShape, Program, deque[_Item]] | None:
        self._drop_cancelled()
        for shape, queue in sorted(self._queues.items(), key=lambda entry: entry[1][0].since):
            program = self._programs.ready(shape, len(queue), [item.asker for item in queue])
            if program is not None:
                return shape, program, queue
            if (error := self._programs.failure(shape)) is not None:
                _fail([item for item in self._queues.pop(shape) if item.future.set_running_or_notify_cancel()], error)
        return None

    def _drop_cancelled(self) -> None:
        """Those whose clients have gone, before they are counted or anything is compiled for them."""
        for shape, queue in list(self._queues.items()):
            if any(item.future.cancelled() for item in queue):
                self._queues[shape] = queue = deque(item for item in queue if not item.future.cancelled())
            if not queue:
                del self._queues[shape]

    def _compute(self, program: Program, items: list[_Item]) -> None:
        begun = time.perf_counter()
        outcome = program.run([item.prepared for item in items], [item.drawn for item in items])
        actions = np.asarray(outcome.actions)
        seconds = time.perf_counter() - begun
        for row, item in enumerate(items):
            with contextlib.suppress(InvalidStateError):  # the end did not wait for it
                item.future.set_result(Sample(actions[row], outcome, row, begun - item.since, seconds, len(items)))
        self._on_batch(len(items), seconds)


def _fail(items: Iterable[_Item], error: BaseException) -> None:
    for item in items:
        with contextlib.suppress(InvalidStateError):  # answered already
            item.future.set_exception(error)
