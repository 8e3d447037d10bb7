"""What happens inside one worker process: an environment, a connection, one job after the other.

The environment stays for the next episode of its task. The process leaves by `os._exit`, so that no graphics library can
crash or hang it at the end; and it leaves at once where its parent is gone, so that a campaign that was killed keeps no
episode of a server open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import logging.handlers
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from vlascope_client import (
    EpisodeInterruptedError,
    PolicyClient,
    PolicyConnectionError,
    PolicyError,
    PolicyTimeoutError,
    ProtocolError,
    SpecMismatchError,
)

from vlascope_sim.environment.libero import LiberoEnvironment
from vlascope_sim.environment.tasks import load_task
from vlascope_sim.errors import RolloutError, SimulationError
from vlascope_sim.processes import leave_with_parent
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.episode import AssetsUsed, blank_result, run_episode
from vlascope_sim.rollout.session import TEMPORARY, open_client
from vlascope_sim.rollout.workers import Event, Finished, Job, Lost, Refused

log = logging.getLogger(__name__)

_BEAT_SECONDS, _RETRY_SECONDS = 0.5, 2.0


@dataclasses.dataclass(frozen=True)
class WorkerSetup:
    """What a worker is started with.

    Attributes:
        campaign: what its jobs are part of.
        assets: to build scenes from.
        output: folder of results.
        server: address of the policy server, or several in the order to try them.
        api_key: for it.
        log_level: least severe messages to show.
    """

    campaign: Campaign
    assets: AssetsUsed
    output: Path
    server: str | tuple[str, ...]
    api_key: str | None
    log_level: int


@dataclasses.dataclass(frozen=True)
class Logged:
    """A line of a worker's log, for the parent to show: only the parent knows where its progress bars are."""

    record: logging.LogRecord


@dataclasses.dataclass(frozen=True)
class Alive:
    """What a worker sends to say that it lives: the phase it is in, and steps of its job so far."""

    phase: str
    steps: int


def worker_main(channel: Connection, setup: WorkerSetup) -> None:
    """Runs jobs from `channel` until it says None; the body of a spawned process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()
    worker = _Worker(channel, setup)
    logging.basicConfig(level=setup.log_level, handlers=[_ToParent(worker)])
    with contextlib.suppress(EOFError, OSError):
        while (job := channel.recv()) is not None:
            worker.send(worker.run(job))
    worker.close()
    sys.stderr.flush()
    os._exit(0)


class _ToParent(logging.handlers.QueueHandler):
    """Hands what is logged to the parent; its text is put together here."""

    def __init__(self, worker: _Worker):
        super().__init__(queue.SimpleQueue())  # which stays empty
        self.setFormatter(
            logging.Formatter("%(message)s")
        )  # else `basicConfig` puts level and logger in front of the text
        self._worker = worker

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sends a record that can be pickled. Nobody is left to be told where the parent is gone."""
        with contextlib.suppress(OSError):
            self._worker.send(Logged(record))


class _Worker:
    def __init__(self, channel: Connection, setup: WorkerSetup):
        self._channel, self._setup = channel, setup
        self._environment: LiberoEnvironment | None = None
        self._client: PolicyClient | None = None
        self._last_beat = 0.0
        self._phase, self._steps = "", 0
        self._sending = threading.Lock()
        threading.Thread(target=self._beat_aside, daemon=True).start()

    def run(self, job: Job) -> Event:
        campaign = self._setup.campaign
        begun = time.perf_counter()
        blank = blank_result(campaign, self._setup.assets, job.key, job.attempt)
        try:
            self._beat("build", 0)
            environment = self._task_environment(job.key.task)
            self._beat("policy", 0)
            client = self._connected()
            return Finished(job, run_episode(environment, client, campaign, blank, self._setup.output, self._beat))
        except (SimulationError, RolloutError, SpecMismatchError, ProtocolError) as error:
            return Refused(job, str(error))
        except PolicyError as error:
            if error.code in TEMPORARY:
                self._drop_client()  # what is stored of the episode so far ends with its connection
                time.sleep(_RETRY_SECONDS)
                return self._lost(job, error, begun)
            return Refused(job, str(error))
        except PolicyConnectionError as error:
            if error.code == "unauthorized" or error.status == 401:
                return Refused(job, str(error))
            return self._lost(job, error, begun)
        except (EpisodeInterruptedError, PolicyTimeoutError) as error:
            return self._lost(job, error, begun)  # the client makes a new connection by itself
        except Exception as error:
            log.exception("%s, attempt %d", blank.name, job.attempt)
            self._drop_environment()
            self._drop_client()
            return self._lost(job, error, begun)

    def close(self) -> None:
        self._drop_environment()
        self._drop_client()

    def _lost(self, job: Job, error: Exception, begun: float) -> Lost:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Lost(job, reason, round(time.perf_counter() - begun, 3))

    def _task_environment(self, task: int) -> LiberoEnvironment:
        if self._environment is None or self._environment.task.id != task:
            self._drop_environment()
            campaign = self._setup.campaign
            self._environment = LiberoEnvironment(
                load_task(campaign.suite, task),
                self._setup.assets.folder,
                render=campaign.render,
                image_size=campaign.image_size,
            )
        return self._environment

    def _connected(self) -> PolicyClient:
        if self._client is None:
            self._client = open_client(self._setup.server, self._setup.campaign, self._setup.api_key)
        return self._client

    def _drop_environment(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, said: Alive | Logged | Event) -> None:
        """Says something to the parent, whole."""
        with self._sending:
            self._channel.send(said)

    def _beat(self, phase: str, steps: int) -> None:
        now = time.monotonic()
        if phase != self._phase or now - self._last_beat > _BEAT_SECONDS:
            self._phase, self._steps, self._last_beat = phase, steps, now
            self.send(Alive(phase, steps))

    def _beat_aside(self) -> None:
        """While a scene is built or a policy waited for, for no step says so then. A process that was stopped says nothing.

        Both have an end of their own: `build_seconds`, and the client's patience.
        """
        while True:
            time.sleep(_BEAT_SECONDS)
            if self._phase in ("build", "policy"):
                with contextlib.suppress(OSError):
                    self.send(Alive(self._phase, self._steps))
