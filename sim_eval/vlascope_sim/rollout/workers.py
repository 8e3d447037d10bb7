"""The interface between a campaign and whatever runs its episodes. It names no process and no simulator.

A cluster's engine takes the place of `SpawnedWorkers` by having these four methods.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from vlascope_sim.rollout.campaign import EpisodeKey
from vlascope_sim.rollout.results import EpisodeResult


@dataclasses.dataclass(frozen=True)
class Job:
    """One attempt at one episode."""

    key: EpisodeKey
    attempt: int


@dataclasses.dataclass(frozen=True)
class Beat:
    """A sign of life: environment steps of a job so far."""

    job: Job
    steps: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """A job has run to its end."""

    job: Job
    result: EpisodeResult


@dataclasses.dataclass(frozen=True)
class Lost:
    """A job ended without a result: its worker died or hung, or its server went away. It may be submitted again."""

    job: Job
    reason: str
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Refused:
    """A job that can never run, and no other of its campaign either; the reason is one line."""

    job: Job
    reason: str


Event = Beat | Finished | Lost | Refused


class Workers(Protocol):
    """Runs jobs. Each job that was submitted ends with exactly one `Finished`, `Lost` or `Refused`."""

    def idle(self) -> int:
        """How many jobs would start at once."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job; only while `idle` is positive."""
        ...

    def poll(self, seconds: float) -> list[Event]:
        """Waits for events, at most so long, and returns them in order."""
        ...

    def close(self) -> None:
        """Ends every worker, also in the middle of a job; a second call does nothing."""
        ...
