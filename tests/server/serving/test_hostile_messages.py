"""Hostile messages from several connections, and a healthy client beside them that must not notice."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from vlascope_client.protocol import ErrorCode
from vlascope_latents.store import LatentStore, verify
from websockets.exceptions import ConnectionClosed

from tests.server.serving.hostile import SPEC, messages
from tests.server.serving.live_server import LiveServer, serve
from tests.server.serving.wire import Wire, connect, observation

ATTACKERS = 4
MESSAGE_BYTES = 4_000_000
GROWTH = 400e6
"""Bytes: four attackers' messages, twice each, what they become, and what a server grows by beside them."""
SECONDS = 20.0
"""That one request of the healthy client may take, on a machine that does other things."""


class Healthy(threading.Thread):
    """Asks the same over and over, captured and plain, and keeps how long each answer took."""

    def __init__(self, server: LiveServer):
        super().__init__(daemon=True)
        self.server, self.stop, self.seconds, self.episodes = server, threading.Event(), [], 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with connect(self.server.url) as wire:
                expected = wire.ask(observation(3))["actions"]
                while not self.stop.is_set():
                    self._episode(wire, expected)
        except BaseException as error:
            self.failure = error

    def _episode(self, wire: Wire, expected: np.ndarray) -> None:
        name = f"healthy-{self.episodes}"
        for _ in range(4):
            begun = time.monotonic()
            reply = wire.ask(observation(3, collect_latents=SPEC, episode={"id": name}))
            self.seconds.append(time.monotonic() - begun)
            np.testing.assert_allclose(reply["actions"], expected, atol=1e-4)
        receipt = wire.ask({"request": "end_episode", "episode": name})
        assert (receipt["status"], receipt["frames"], receipt["error"]) == ("sealed", 4, None)
        self.episodes += 1


def memory(server: LiveServer) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack(server: LiveServer, seed: int, count: int) -> Counter:
    """Sends messages and hangs up now and then; what was answered."""
    outcomes: Counter = Counter()
    left = list(messages(seed, count))
    while left:
        with contextlib.suppress(ConnectionClosed), connect(server.url) as wire:
            while left:
                message = left.pop()
                wire.socket.send(message)
                if len(left) % 37 == 5:  # hangs up without an answer
                    outcomes["hung up"] += 1
                    wire.socket.socket.shutdown(socket.SHUT_RDWR)
                    break
                reply = wire.socket.recv(timeout=120)
                outcomes[check(reply)] += 1
    return outcomes


def check(reply: bytes | str) -> str:
    """`ok` or the code of an error, whose form is checked."""
    if isinstance(reply, bytes):
        return "ok"
    assert len(reply.encode()) <= 2000
    error = json.loads(reply)
    assert set(error) == {"code", "message", "field", "allowed"}
    assert error["code"] in get_args(ErrorCode)
    assert error["code"] != "internal", error
    assert error["message"].isprintable()
    assert "Traceback" not in error["message"]
    return error["code"]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_healthy_client_does_not_notice(tmp_path, count):
    options = ("--store", str(tmp_path), "--max-message-bytes", str(MESSAGE_BYTES), "--capture", json.dumps(SPEC))
    with serve(*options, "--warm-up", "all") as server:
        healthy = Healthy(server)
        healthy.start()
        while len(healthy.seconds) < 20:
            assert healthy.failure is None, healthy.failure
            time.sleep(0.05)
        before, most = memory(server), 0
        with ThreadPoolExecutor(ATTACKERS) as pool:
            attacks = [pool.submit(attack, server, seed, count // ATTACKERS) for seed in range(ATTACKERS)]
            while not all(one.done() for one in attacks):
                most = max(most, memory(server))
                time.sleep(0.01)
        outcomes = sum((one.result() for one in attacks), Counter())
        healthy.stop.set()
        healthy.join(60)
        assert healthy.failure is None, healthy.failure
        print(
            f"{sum(outcomes.values())} messages: {dict(outcomes)}; memory grew by {(most - before) / 1e6:.0f} MB; the healthy"
            f" client's {len(healthy.seconds)} requests took {max(healthy.seconds):.2f} s at most,"
            f" {np.median(healthy.seconds):.3f} s in the median"
        )
        assert sum(outcomes.values()) == count
        assert {"bad_message", "invalid_field", "invalid_observation", "ok"} <= set(outcomes)
        assert most - before < GROWTH
        assert max(healthy.seconds) < SECONDS
        assert healthy.episodes >= 5
        assert server.stop() == 0
        assert "Traceback" not in server.output
    store = LatentStore(tmp_path)
    assert [str(problem) for problem in verify(store.episodes(attempts="all"))] == []
    assert (
        sum(episode.id.startswith("healthy") and episode.status == "sealed" for episode in store.episodes())
        == healthy.episodes
    )
