"""Minutes of honest, hostile and dying clients: memory stays flat, nothing acknowledged is lost, the server lives.

`VLASCOPE_SOAK_SECONDS` says how long; ten minutes unless told.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vlascope_latents.store import Episode, LatentStore, verify

from tests.server.serving.live_server import LiveServer, serve
from tests.server.serving.soak_clients import SPECS, Kept, clients
from tests.server.serving.wire import Wire, connect, observation

SECONDS = float(os.environ.get("VLASCOPE_SOAK_SECONDS", "600"))
GROWTH = 48 << 20
"""Bytes that the server's memory may differ between the second quarter and the last, by its medians: allocators breathe."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What /proc says of the server."""

    seconds: float
    anonymous: int
    files: int
    threads: int


def sample(server: LiveServer, begun: float) -> Sample:
    process = Path(f"/proc/{server.process.pid}")
    lines = (process / "smaps_rollup").read_text(encoding="ascii").splitlines()
    anonymous = next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    files, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
    return Sample(time.monotonic() - begun, anonymous, files, threads)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_minutes_of_honest_hostile_and_dying_clients(tmp_path):
    options = ("--queue-bytes", "32MB", "--max-message-bytes", "1MB", "--min-free", "100MB", "--log-level", "info")
    with serve("--store", str(tmp_path), "--warm-up", "all", "--max-batch", "2", *options) as server:
        compile_everything(server)
        kept, stop, begun = Kept(), threading.Event(), time.monotonic()
        before = sample(server, begun)
        running = clients(server.url, kept, stop)
        for client in running:
            client.start()
        samples = []
        while time.monotonic() - begun < SECONDS and not any(client.error for client in running):
            time.sleep(1)
            assert server.process.poll() is None, server.output
            assert server.get("/healthz")[0] == 200
            assert server.get("/metrics")[0] == 200
            samples.append(sample(server, begun))
        stop.set()
        for client in running:
            client.join(120)
        for client in running:
            assert not client.is_alive(), f"{client} hangs"
            if client.error:
                raise client.error
        status = settle(server)
        after = sample(server, begun)
        report(kept, samples, before, after, status)
        assert server.stop() == 0
    assert not kept.wrong
    for word in ("Traceback", "ERROR"):  # a fault of the server is logged as one, with its traceback
        assert word not in server.output, server.output[-5000:]
    check_memory(samples, before, after)
    check_store(server.run, kept, status)


def compile_everything(server: LiveServer) -> None:
    """The programs of the clients' specs for either batch size: compiling takes memory that is no leak."""

    def ask(wire: Wire, number: int, spec: Any) -> int:
        return wire.ask(observation(collect_latents=spec, episode={"id": f"first-{number}"}))["policy_timing"]["batch"]

    with connect(server.url) as one, connect(server.url) as other, ThreadPoolExecutor(2) as pool:
        for spec in SPECS:
            deadline = time.monotonic() + 120
            while set(pool.map(ask, (one, other), (0, 1), (spec, spec))) != {2}:
                assert time.monotonic() < deadline, server.output
            for number, wire in enumerate((one, other)):
                wire.ask({"request": "end_episode", "episode": f"first-{number}"})


def settle(server: LiveServer) -> dict:
    """Once every other client is gone and its episodes are sealed, what the server says of itself."""
    deadline = time.monotonic() + 60
    with connect(server.url) as wire:
        while True:
            status = wire.ask({"request": "status"})
            if (status["clients"], status["episodes_open"], status["pending"]) == (1, 0, 0):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.2)


def quarters(samples: list[Sample]) -> list[list[int]]:
    length = len(samples) // 4
    return [[s.anonymous for s in samples[n * length : (n + 1) * length]] for n in range(4)]


def report(kept: Kept, samples: list[Sample], before: Sample, after: Sample, status: dict) -> None:
    """Numbers for whoever reads along (`pytest -s`)."""
    medians = ", ".join(f"{statistics.median(quarter) / 1e6:.0f}" for quarter in quarters(samples))
    print(f"\nmemory by quarters: {medians} MB; {before.anonymous / 1e6:.0f} before, {after.anonymous / 1e6:.0f} after")
    print(f"files {before.files} -> {after.files}, threads {before.threads} -> {after.threads}")
    print(f"{len(kept.receipts)} receipts, {len(kept.interrupted)} interrupted, status {status}")
    print(dict(sorted(kept.counts.items())))


def check_memory(samples: list[Sample], before: Sample, after: Sample) -> None:
    _, second, _, last = quarters(samples)
    assert statistics.median(last) - statistics.median(second) < GROWTH
    # one connection asks for the status in `settle`
    assert after.files <= before.files + 2
    assert after.threads <= before.threads + 64 + 2  # a session's threads stay for the next one


def check_store(run: Path, kept: Kept, status: dict) -> None:
    episodes: dict[tuple[str, int], Episode] = {
        (episode.id, episode.row.attempt): episode for episode in LatentStore(run).episodes(attempts="all")
    }
    assert list(verify(episodes.values())) == []
    assert {episode.status for episode in episodes.values()} <= {"sealed", "interrupted"}
    assert sum(episode.frames for episode in episodes.values()) == status["committed"] >= kept.committed
    assert status["dropped"] == 0
    assert kept.receipts
    for receipt in kept.receipts:
        key = receipt["episode"], receipt["attempt"]
        assert (receipt["status"], receipt["dropped"]) == ("sealed", 0)
        assert (episodes[key].status, episodes[key].frames) == ("sealed", receipt["frames"])
        assert kept.tickets[key] == list(range(receipt["frames"]))
    for key in kept.interrupted:
        assert episodes[key].status == "interrupted", key
    for key, tickets in kept.tickets.items():
        # of the killed, the server may have answered more than the parent read
        assert tickets == list(range(len(tickets))), key
        assert episodes[key].frames >= len(tickets), key
    assert kept.checksums
    lines = {key: episode.lines() for key, episode in episodes.items()}
    for (episode, attempt, frame), checksums in kept.checksums.items():
        assert lines[episode, attempt][frame].xxh3 == checksums
