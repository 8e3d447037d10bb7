"""Which program is compiled next: only what somebody waits for, and in turns, so that no client keeps the others waiting.

1. A job has askers: the clients that wait for it. A job whose askers are all gone leaves the queue.
2. A client waits for at most two jobs at a time.
3. What a client cannot go on without comes before what would only be faster. Among those, the host that was served longest
   ago comes first, then the client, then the job that came first.

Compiles nothing itself, and takes no locks: `Programs` holds its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

JOBS_OF_A_CLIENT = 2
_HOSTS_REMEMBERED = 1024


@runtime_checkable
class Asker(Protocol):
    """Somebody who waits for programs. Compared by identity."""

    @property
    def host(self) -> str:
        """The machine that it connects from."""
        ...


class TooManyJobsError(Exception):
    """A client that waits for as many programs as it may asked for one more."""


@dataclasses.dataclass(eq=False)
class Job:
    """A program that is to be compiled.

    Attributes:
        key: names the program.
        number: jobs that came before.
        future: of the program.
        optional: its askers can go on without it.
        askers: who waits; None is the server itself, which never goes away.
    """

    key: Any
    number: int
    future: Future[Any]
    optional: bool
    askers: list[Asker | None] = dataclasses.field(default_factory=list)


class CompileQueue:
    """The jobs that wait and those that run, by key."""

    def __init__(self):
        self._jobs: dict[Hashable, Job] = {}
        self._running: dict[Hashable, Job] = {}
        self._numbers = itertools.count()
        self._turns = itertools.count(1)
        self._hosts: OrderedDict[str, int] = OrderedDict()
        self._clients: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._jobs)

    def ask(self, key: Hashable, asker: Asker | None, *, optional: bool = False) -> Future[Any] | None:
        """The future of a program, whose job is made where there is none.

        None for an optional one, where the client waits for as many as it may.

        Raises:
            TooManyJobsError: the same, for one that is not optional.
        """
        job = self._jobs.get(key) or self._running.get(key)
        if job is not None and job.future.cancelled():
            self._jobs.pop(key, None)
            job = None
        if job is None or asker not in job.askers:
            theirs = [other for other in self._all() if asker is not None and asker in other.askers]
            if len(theirs) >= JOBS_OF_A_CLIENT:
                if optional:
                    return None
                if not (spare := [other for other in theirs if other.optional and other.key in self._jobs]):
                    raise TooManyJobsError
                self._leave(spare[0], asker)
            if job is None:
                job = self._jobs[key] = Job(key, next(self._numbers), Future(), optional)
            job.askers.append(asker)
        job.optional &= optional
        return job.future

    def take(self) -> Job | None:
        """The job whose turn it is, which now runs; None where nothing waits."""
        if not self._jobs:
            return None
        job = min(self._jobs.values(), key=self._rank)
        self._running[job.key] = self._jobs.pop(job.key)
        turn = next(self._turns)
        for asker in job.askers:
            if asker is not None:
                self._clients[asker] = self._hosts[asker.host] = turn
                self._hosts.move_to_end(asker.host)
        while len(self._hosts) > _HOSTS_REMEMBERED:
            self._hosts.popitem(last=False)
        return job

    def done(self, job: Job) -> None:
        """It runs no more."""
        del self._running[job.key]

    def gone(self, asker: Asker) -> list[Job]:
        """Forgets a client; the jobs that nobody waits for now, which have left the queue."""
        return [job for job in self._all() if asker in job.askers and self._leave(job, asker)]

    def clear(self) -> list[Job]:
        """Every job, running ones too; none waits any more."""
        left = self._all()
        self._jobs.clear()
        return left

    def _all(self) -> list[Job]:
        return [*self._jobs.values(), *self._running.values()]

    def _leave(self, job: Job, asker: Asker | None) -> bool:
        job.askers.remove(asker)
        return not job.askers and self._jobs.pop(job.key, None) is not None

    def _rank(self, job: Job) -> tuple[bool, tuple[int, int], int]:
        turns = [
            (-1, -1) if asker is None else (self._hosts.get(asker.host, 0), self._clients.get(asker, 0))
            for asker in job.askers
        ]
        return job.optional, min(turns), job.number
