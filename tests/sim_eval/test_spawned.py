"""Processes that stop while they start or build a scene are noticed; nobody waits for them for minutes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from typing import TypeVar

import pytest
from vlascope_base.command import StderrHandler
from vlascope_sim.rollout.campaign import EpisodeKey
from vlascope_sim.rollout.spawned import SpawnedWorkers
from vlascope_sim.rollout.worker import WorkerSetup, _ToParent, _Worker
from vlascope_sim.rollout.workers import Beat, Job, Lost

from tests.sim_eval.campaigns import campaign

T = TypeVar("T", Beat, Lost)
JOB = Job(EpisodeKey(0, 0), 1)


@pytest.fixture
def make(assets, tmp_path):
    """Makes one worker whose server does not exist: it never gets that far."""
    made = []

    def workers(**limits) -> SpawnedWorkers:
        ours = campaign(render="fast", reconnect_seconds=60.0)
        setup = WorkerSetup(ours, assets, tmp_path, "ws://127.0.0.1:9", None, logging.ERROR)
        made.append(SpawnedWorkers([setup], **limits))
        return made[-1]

    yield workers
    for each in made:
        each.close()


def first_event(workers: SpawnedWorkers, kind: type[T], seconds: float = 60) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        events = [event for event in workers.poll(0.02) if isinstance(event, kind)]
        if events:
            return events[0]
    raise AssertionError(f"no {kind.__name__} in {seconds} s")


def test_a_worker_that_is_stopped_while_it_builds_is_noticed(make):
    workers = make(hang_seconds=1.0, build_seconds=300.0)
    workers.submit(JOB)
    first_event(workers, Beat)  # it starts to build
    os.kill(workers._slots[0].process.pid, signal.SIGSTOP)
    lost = first_event(workers, Lost, seconds=10)
    assert lost.reason == "worker hung: no sign of life for 1 s (build)"
    assert workers.idle() == 1


def test_neither_starting_nor_building_may_take_for_ever(make):
    workers = make(hang_seconds=60.0, build_seconds=0.02)
    workers.submit(JOB)
    lost = first_event(workers, Lost)
    assert lost.reason == "worker hung: not done with this phase after 0.02 s (start)"


def test_what_a_worker_logs_is_said_by_its_parent(make, caplog):
    """The parent alone knows where its progress bars are."""
    workers = make(hang_seconds=60.0)
    slot = workers._slots[0]
    slot.channel, theirs = multiprocessing.Pipe()
    handler = _ToParent(_Worker(theirs, slot.setup))
    handler.handle(logging.LogRecord("vlascope_client.it", logging.WARNING, "f", 1, "no %s", ("answer",), None))
    assert workers.poll(5.0) == []
    assert caplog.record_tuples == [("vlascope_client.it", logging.WARNING, "no answer")]


def test_a_line_of_a_workers_log_has_no_prefix_of_its_own(capsys, monkeypatch):
    """In the worker's process `basicConfig` gives each handler without a format one with level and logger."""

    class Parent:
        def __init__(self):
            self.said = []

        def send(self, said):
            self.said.append(said)

    record = logging.LogRecord("vlascope_client.conversation", logging.INFO, "f", 1, "no %s", ("server",), None)
    parent = Parent()
    handler = _ToParent(parent)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    handler.handle(record)
    StderrHandler().handle(parent.said[0].record)
    assert capsys.readouterr().err == "INFO no server\n"
