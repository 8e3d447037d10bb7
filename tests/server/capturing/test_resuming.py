"""Killed at real moments and gone on with, a capture ends with what an unbroken one ends with, bit by bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from vlascope_latents.store import LatentStore

from tests.server.capturing.conftest import SPEC
from tests.server.capturing.processes import committed, finished, kill_at, start
from tests.server.capturing.saved import save
from tests.server.capturing.stores import assert_same_runs, only_run

EPISODES, INFERENCES = 5, 8
FRAMES = EPISODES * INFERENCES
OPTIONS = (
    "--stride", "5", "--batch-size", "3", "--capture", SPEC, "--min-free", "1MB", "--checkpoint", "tiny", "--num-steps", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    for episode in range(EPISODES):
        save(folder, episode, INFERENCES)
    return folder


@pytest.fixture(scope="module")
def unbroken(seen, tmp_path_factory) -> Path:
    """The run of a capture that nothing happened to."""
    store = tmp_path_factory.mktemp("unbroken")
    assert f"{FRAMES} frames of {EPISODES} episodes" in finished(
        start("--observations", seen, "--store", store, *OPTIONS)
    )
    return only_run(store)


@pytest.mark.parametrize("frames", [0, FRAMES - 1])
def test_killed_before_the_first_episode_or_in_the_last(seen, unbroken, tmp_path, frames):
    store = tmp_path / "runs"
    process = start("--observations", seen, "--store", store, *OPTIONS)
    if frames:
        kill_at(process, store, frames)
    else:
        deadline = time.monotonic() + 200
        while not list(store.glob("*/run.json")):  # the run is made before the program is compiled
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    run = only_run(store)
    finished(start("--resume", run))
    assert_same_runs(run, unbroken)


def test_stopped_by_a_person_it_says_how_to_go_on(seen, unbroken, tmp_path):
    for attempt in range(5):
        store = tmp_path / f"runs{attempt}"
        process = start("--observations", seen, "--store", store, *OPTIONS)
        while committed(store) < 9:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        if process.returncode:  # else it was done before the signal came
            break
    run = only_run(store)
    assert process.returncode == 130
    assert f"`vlascope-server capture --resume {run}` goes on" in err
    assert "Traceback" not in err
    assert {e.status for e in LatentStore(run).episodes()} == {"sealed", "interrupted"}
    finished(start("--resume", run))
    assert_same_runs(run, unbroken)


def test_another_process_that_captures_into_it_is_waited_for_by_nobody(seen, tmp_path):
    store = tmp_path / "runs"
    process = start("--observations", seen, "--store", store, *OPTIONS)
    while committed(store) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    run = only_run(store)
    other = start("--resume", run)
    _, err = other.communicate(timeout=100)
    if process.poll() is None:  # it may have been quicker than the other's start
        assert other.returncode == 2
        assert "is being written by another process" in err
    finished(process)
    assert [e.frames for e in LatentStore(run).episodes(attempts="all")] == [INFERENCES] * EPISODES
