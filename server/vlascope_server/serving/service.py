"""What every session of one server shares."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from typing import Any

import numpy as np
from vlascope_latents import CapturePlan, CaptureSpec, CaptureSpecError

from vlascope_server.policies.contract import Policy
from vlascope_server.policies.programs import Programs
from vlascope_server.serving.batcher import Activity, Batcher
from vlascope_server.serving.episodes import Episodes
from vlascope_server.serving.messages import spec_error
from vlascope_server.serving.monitoring import Metrics
from vlascope_server.serving.typos import Typos


class Seeds:
    """Seeds for observations that bring neither seed nor noise: a sequence that the server's own seed fixes."""

    def __init__(self, seed: int | None):
        self.first = secrets.randbits(63) if seed is None else seed
        self._random = np.random.default_rng(self.first)
        self._lock = threading.Lock()

    def next(self) -> int:
        """The next seed."""
        with self._lock:
            return int(self._random.integers(2**63))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """A policy with everything that answers for it.

    Attributes:
        policy: whose observations these are.
        programs: compiled for it.
        batcher: runs them.
        activity: who asks.
        episodes: keeps what is captured.
        metrics: counts.
        default_spec: for `collect_latents: true`.
        seeds: of what observations draw.
        typos: finds keys that nobody reads.
    """

    policy: Policy[Any]
    programs: Programs
    batcher: Batcher
    activity: Activity
    episodes: Episodes
    metrics: Metrics
    default_spec: CaptureSpec
    seeds: Seeds
    typos: Typos

    @property
    def run(self) -> str | None:
        """Name of the run that frames go to."""
        return self.episodes.run.path.name if self.episodes.run else None

    def plan(self, collect: CaptureSpec | bool) -> CapturePlan:
        """What a spec captures, a boolean being the server's default.

        Raises:
            RequestError: the policy cannot honour it.
        """
        try:
            return self.programs.plan(self.default_spec if isinstance(collect, bool) else collect)
        except CaptureSpecError as error:
            raise spec_error(error) from None
