"""Workers as processes of this machine: spawned, watched, replaced.

Processes are spawned, never forked: a forked one would share its parent's threads and graphics state. A worker that dies, or
gives no sign of life for longer than its phase may take, is killed; its job is `Lost`, and the next job gets a new process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

from vlascope_sim.processes import one_thread
from vlascope_sim.rollout.worker import Alive, Logged, WorkerSetup, worker_main
from vlascope_sim.rollout.workers import Beat, Event, Job, Lost


@dataclasses.dataclass
class _Slot:
    setup: WorkerSetup
    process: Any = None
    channel: Any = None
    job: Job | None = None
    task: int | None = None
    phase: str = "start"
    heard: float = 0.0
    phase_since: float = 0.0
    started: float = 0.0


class SpawnedWorkers:
    """Runs jobs in processes, one for each setup. A process starts with its first job.

    Args:
        setups: one for each worker.
        hang_seconds: without a sign of life, until a worker counts as hung.
        build_seconds: that a process may take to give its first, and again to build a scene, signs of life or not.
    """

    def __init__(self, setups: list[WorkerSetup], *, hang_seconds: float, build_seconds: float = 300.0):
        self._slots = [_Slot(setup) for setup in setups]
        self._hang_seconds, self._build_seconds = hang_seconds, build_seconds
        self._context = multiprocessing.get_context("spawn")

    def idle(self) -> int:
        """Workers without a job."""
        return sum(slot.job is None for slot in self._slots)

    def submit(self, job: Job) -> None:
        """Hands a job to a free worker, to one that has its task's environment already where there is one."""
        free = [slot for slot in self._slots if slot.job is None]
        slot = next((slot for slot in free if slot.task == job.key.task), None)
        slot = slot or next((slot for slot in free if slot.task is None), free[0])
        new = slot.process is None or not slot.process.is_alive()
        if new:
            self._start(slot)
        slot.job, slot.task, slot.phase = job, job.key.task, "start" if new else "build"
        slot.heard = slot.started = slot.phase_since = time.monotonic()
        with contextlib.suppress(OSError):  # a worker that died meanwhile is found by `poll`
            slot.channel.send(job)

    def poll(self, seconds: float) -> list[Event]:
        """Events of all workers; the watchdog looks here."""
        channels = {slot.channel: slot for slot in self._slots if slot.channel is not None}
        events: list[Event] = []
        for channel in wait(list(channels), timeout=seconds):
            events += self._read(channels[channel])
        now = time.monotonic()
        for slot in self._slots:
            if slot.job is not None and (reason := self._hung(slot, now)):
                job = slot.job
                self._end(slot)
                events.append(Lost(job, f"worker hung: {reason} ({slot.phase})", round(now - slot.started, 3)))
        return events

    def _hung(self, slot: _Slot, now: float) -> str | None:
        """Why a worker counts as hung; None where it does not. A process that starts cannot say yet that it lives."""
        if slot.phase != "start" and now - slot.heard > self._hang_seconds:
            return f"no sign of life for {self._hang_seconds:g} s"
        if slot.phase in ("start", "build") and now - slot.phase_since > self._build_seconds:
            return f"not done with this phase after {self._build_seconds:g} s"
        return None

    def close(self) -> None:
        """Asks idle workers to leave, and ends the others."""
        for slot in self._slots:
            if slot.job is None and slot.channel is not None:
                with contextlib.suppress(OSError):
                    slot.channel.send(None)
        deadline = time.monotonic() + 5
        for slot in self._slots:
            if slot.job is None and slot.process is not None:
                slot.process.join(max(0.0, deadline - time.monotonic()))
            self._end(slot)

    def _start(self, slot: _Slot) -> None:
        self._end(slot)
        slot.channel, theirs = self._context.Pipe()
        slot.process = self._context.Process(target=worker_main, args=(theirs, slot.setup), daemon=True)
        with one_thread():
            slot.process.start()
        theirs.close()

    def _read(self, slot: _Slot) -> Iterator[Event]:
        """Everything that a worker has said; its end is said too."""
        channel = slot.channel
        try:
            while channel.poll():
                said = channel.recv()
                if isinstance(said, Logged):
                    logging.getLogger(said.record.name).handle(said.record)
                elif isinstance(said, Alive):
                    slot.heard = time.monotonic()
                    if slot.phase != said.phase:
                        slot.phase, slot.phase_since = said.phase, slot.heard
                    if slot.job is not None:
                        yield Beat(slot.job, said.steps)
                else:
                    slot.job = None
                    yield said
        except (EOFError, OSError):
            job, process, started = slot.job, slot.process, slot.started
            process.join(5)
            code = process.exitcode
            self._end(slot)
            if job is not None:
                yield Lost(job, f"worker died with exit code {code}", round(time.monotonic() - started, 3))

    def _end(self, slot: _Slot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.join()
            slot.process.close()
        if slot.channel is not None:
            slot.channel.close()
        slot.process = slot.channel = slot.job = slot.task = None
