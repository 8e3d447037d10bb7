"""Makes many demonstrations in spawned processes, and hands them on in their order.

Each process keeps the environment of its last task. Work is handed out a little ahead of what is taken, so that finished
demonstrations, 10 MB each, do not pile up.
"""

from __future__ import annotations

import collections
import multiprocessing
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vlascope_sim.demonstrations.episode import Frames, Outcome, demonstrate
from vlascope_sim.demonstrations.plan import Demonstration
from vlascope_sim.environment import LiberoEnvironment, RenderMode, load_task
from vlascope_sim.errors import SimulationError
from vlascope_sim.processes import leave_with_parent, one_thread

Made = tuple[Demonstration, Outcome, Frames | None]

_AHEAD = 2


class Collector:
    """Makes demonstrations in this process; the environment stays for the next one of its task.

    Args:
        assets: folder that scenes are built from.
        render, image_size: of the frames.
        record: keep frames at all.
    """

    def __init__(self, assets: Path, *, render: RenderMode = "fast", image_size: int = 128, record: bool = True):
        self._assets, self._image_size, self._record = assets, image_size, record
        self._render: RenderMode = render
        self._environment: LiberoEnvironment | None = None

    def make(self, demonstration: Demonstration) -> tuple[Outcome, Frames | None]:
        """Makes one; see `episode.demonstrate`."""
        task = load_task(demonstration.suite, demonstration.task)
        if self._environment is None or self._environment.task != task:
            self.close()
            self._environment = LiberoEnvironment(task, self._assets, render=self._render, image_size=self._image_size)
        return demonstrate(self._environment, demonstration, record=self._record)

    def close(self) -> None:
        """Frees the environment; a second call does nothing."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None


def collect(
    demonstrations: Sequence[Demonstration],
    assets: Path,
    *,
    workers: int,
    render: RenderMode = "fast",
    image_size: int = 128,
    record: bool = True,
) -> Generator[Made, None, None]:
    """Makes demonstrations, and yields them in the order given.

    Args:
        demonstrations: best sorted by task, for building a scene takes a second.
        assets: folder that scenes are built from.
        workers: processes.
        render, image_size, record: see `Collector`.

    Raises:
        SimulationError: a demonstration cannot be made, or a process died.
    """
    waiting = collections.deque(demonstrations)
    running: collections.deque[tuple[Demonstration, Future]] = collections.deque()
    context = multiprocessing.get_context("spawn")
    options = (assets, render, image_size, record)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=options)
    try:
        with one_thread():
            while waiting or running:
                while waiting and len(running) < workers * _AHEAD:
                    demonstration = waiting.popleft()
                    running.append((demonstration, pool.submit(_make, demonstration)))
                demonstration, future = running.popleft()
                outcome, frames = future.result()
                yield demonstration, outcome, frames
    except BrokenProcessPool as error:
        raise SimulationError(f"a process that made demonstrations died ({error}); `--resume` goes on") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_collector: Collector | None = None


def _begin(assets: Path, render: RenderMode, image_size: int, record: bool) -> None:
    global _collector
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()
    _collector = Collector(assets, render=render, image_size=image_size, record=record)


def _make(demonstration: Demonstration) -> tuple[Outcome, Frames | None]:
    assert _collector is not None  # noqa: S101  (the initializer made it)
    return _collector.make(demonstration)
