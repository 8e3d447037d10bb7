"""The compiled programs of a policy, one a request shape and batch size, made on a thread of their own when first wanted.

Compiling takes seconds to minutes; whoever has a program that is ready goes on meanwhile. `compile_queue.py` says which
program comes next.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from typing import Any

from vlascope_latents import CapturePlan, CaptureSpec

from vlascope_server.policies.compile_queue import Asker, CompileQueue, Job
from vlascope_server.policies.contract import PLAIN, Policy, Program, RequestShape, plan_request

_log = logging.getLogger(__name__)

KEPT_SHAPES = 8
"""Shapes, besides the plain one, whose programs stay: each costs memory, and a client may name any number of them."""


class ProgramsClosedError(RuntimeError):
    """The server ends, and compiles nothing more."""


class Programs:
    """The programs of one policy. Every method may be called from any thread.

    Attributes:
        sizes: batch sizes that may be compiled, ascending.
        on_done: called after each attempt to compile.
    """

    def __init__(self, policy: Policy[Any], max_batch: int, *, pad: bool, kept_shapes: int = KEPT_SHAPES):
        """Compiles nothing yet.

        Args:
            policy: to compile for.
            max_batch: the greatest size; the others are the powers of two below.
            pad: run a batch in the next greater size rather than in smaller ones: right where a larger batch costs little
                more, as on a GPU, and wrong where it costs its size, as on a CPU.
            kept_shapes: shapes, besides the plain one, whose programs stay; those that were asked for longest ago go first.
        """
        self.on_done: Callable[[], None] = lambda: None
        self.sizes = tuple(
            dict.fromkeys([*(2**k for k in range(max_batch.bit_length()) if 2**k < max_batch), max_batch])
        )
        self._policy, self._pad, self._kept_shapes = policy, pad, kept_shapes
        self._changed = threading.Condition()
        self._closed = False
        self._queue = CompileQueue()
        self._running: Job | None = None
        # a daemon: compiling cannot be interrupted, and nobody waits for it at the end
        self._compiler: threading.Thread | None = None
        self._programs: OrderedDict[RequestShape, dict[int, Future[Program]]] = OrderedDict()
        self._plan = functools.lru_cache(256)(lambda spec: plan_request(spec, policy.layout))

    def plan(self, spec: CaptureSpec) -> CapturePlan:
        """What a spec captures of this policy; the `capture` of a `RequestShape`.

        Raises:
            CaptureSpecError: it cannot be honoured.
        """
        return self._plan(spec)

    def size_for(self, count: int) -> int:
        """The size for `count` observations; the greatest where they are more."""
        if self._pad:
            return next((size for size in self.sizes if size >= count), self.sizes[-1])
        return max(size for size in self.sizes if size <= count)

    def want(self, shape: RequestShape, size: int, asker: Asker | None = None) -> Future[Program]:
        """Has a program compiled, once; the future fails where it cannot be, and is cancelled where every asker has gone.

        Args:
            shape: of the program.
            size: of its batches.
            asker: the client that waits; None for the server itself.

        Raises:
            TooManyJobsError: the asker waits for as many programs as a client may.
        """
        future = self._ask(shape, size, asker, optional=False)
        assert future is not None, "only optional programs may be left out"  # noqa: S101 (the queue's own rule)
        return future

    def _ask(self, shape: RequestShape, size: int, asker: Asker | None, *, optional: bool) -> Future[Program] | None:
        with self._changed:
            known = self._programs.get(shape, {}).get(size)
            if known is None or known.cancelled() or not known.done():
                if self._closed:
                    future: Future[Program] = Future()
                    future.set_exception(ProgramsClosedError("the server is shutting down"))
                    return future
                asked = self._queue.ask((shape, size), asker, optional=optional)
                if asked is None:
                    return None
                future = asked
            else:
                future = known
            self._programs.setdefault(shape, {})[size] = future
            self._programs.move_to_end(shape)
            if future is known:
                return future
            self._forget()
            if self._compiler is None:
                self._compiler = threading.Thread(target=self._run, name="compiler", daemon=True)
                self._compiler.start()
            self._changed.notify_all()
        # without the lock: who is told holds one of its own, and asks for programs while it does
        future.add_done_callback(lambda _: self.on_done())
        return future

    def gone(self, asker: Asker) -> None:
        """Forgets a client: what nobody else waits for is not compiled, unless it is being compiled already."""
        with self._changed:
            dropped = self._queue.gone(asker)
            for job in dropped:
                shape, size = job.key
                self._programs[shape].pop(size, None)
                if not self._programs[shape]:
                    del self._programs[shape]
        for job in dropped:
            job.future.cancel()

    def ready(self, shape: RequestShape, count: int, askers: Collection[Asker | None] = (None,)) -> Program | None:
        """The program to run `count` observations with now: the best size where it is ready, else the largest below.

        None where nothing is ready. What is missing is being compiled after this call, for `askers`.
        """
        best = self.size_for(count)
        with self._changed:
            done = {
                size: future
                for size, future in self._programs.get(shape, {}).items()
                if future.done() and not future.cancelled() and future.exception() is None
            }
            if done:
                self._programs.move_to_end(shape)
        if best in done:
            return done[best].result()
        for asker in askers:
            self._ask(shape, best, asker, optional=best != self.sizes[0])
            if not done and best != self.sizes[0]:
                self.want(shape, self.sizes[0], asker)
        below = [size for size in done if size < best]
        return done[max(below)].result() if below else None

    def failure(self, shape: RequestShape) -> BaseException | None:
        """Why a shape has no program at all; None where one may still come."""
        with self._changed:
            first = self._programs.get(shape, {}).get(self.sizes[0])
        return first.exception() if first is not None and first.done() and not first.cancelled() else None

    @property
    def compiling(self) -> bool:
        """Whether a program is being compiled now, which nothing can interrupt."""
        with self._changed:
            return self._running is not None

    def close(self) -> None:
        """Lets go of what waits to be compiled, and tells whoever waits for what is being compiled that it comes too late."""
        with self._changed:
            self._closed = True
            left = self._queue.clear()
            self._changed.notify_all()
        for job in left:
            _fail(job.future, ProgramsClosedError("the server is shutting down"))

    def _forget(self) -> None:
        """Lets the shapes go that were asked for longest ago; never one that somebody waits for, who would only ask again."""
        shapes = {shape: made for shape, made in self._programs.items() if shape != PLAIN}
        compiled = [shape for shape, made in shapes.items() if all(future.done() for future in made.values())]
        for shape in compiled[: max(0, len(shapes) - self._kept_shapes)]:
            del self._programs[shape]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._queue))
                if self._closed:
                    return
                job = self._running = self._queue.take()
            if job is None:
                continue
            try:
                program = self._compile(*job.key) if job.future.set_running_or_notify_cancel() else None
            except BaseException as error:
                outcome: Callable[[], None] = functools.partial(_fail, job.future, error)
            else:
                outcome = functools.partial(_succeed, job.future, program)
            with self._changed:
                self._queue.done(job)
                self._running = None
            outcome()

    def _compile(self, shape: RequestShape, size: int) -> Program:
        _log.info("compiling for a batch of %d, %s", size, shape)
        try:
            return self._policy.compile(shape, size)
        except BaseException:
            _log.exception("compiling for a batch of %d, %s, failed", size, shape)
            raise


def _succeed(future: Future[Program], program: Program | None) -> None:
    with contextlib.suppress(InvalidStateError):  # closed or cancelled meanwhile
        future.set_result(program)  # pyright: ignore[reportArgumentType]


def _fail(future: Future[Program], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
