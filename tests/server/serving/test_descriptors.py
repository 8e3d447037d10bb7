"""Sockets and open episodes have bounds, the store keeps the descriptors that it needs, and the log stays short."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import socket
from collections import Counter

import numpy as np
import pytest
import websockets
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_latents.store import LatentStore, RunWriter, verify
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.serving.episodes import Episodes
from vlascope_server.serving.errors import ServeError
from vlascope_server.serving.messages import EpisodeInfo
from vlascope_server.serving.monitoring import OncePerSecond
from vlascope_server.serving.options import Limits
from vlascope_server.serving.sockets import Arrivals, episodes_to_hold, listen

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect, observation

SPEC = {"layers": [0], "spans": ["text"], "experts": ["vlm"], "reduction": "mean"}
FILES = 512


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_idle_sockets_keep_nobody_out(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with serve("--store", str(tmp_path), files=FILES) as server, contextlib.ExitStack() as stack:
            healthy = stack.enter_context(connect(server.url))
            healthy.ask(observation(collect_latents=SPEC, episode={"id": "healthy"}))
            address = server.url.removeprefix("ws://").split(":")
            for number in range(900):
                idle = stack.enter_context(socket.socket())
                idle.connect((address[0], int(address[1])))
                if number % 100 == 0:
                    assert "actions" in healthy.ask(observation(collect_latents=SPEC, episode={"id": "healthy"}))
                    assert open_files(server.process.pid) < FILES
            with connect(server.url) as newcomer:
                assert "actions" in newcomer.ask(observation())
            receipt = healthy.ask({"request": "end_episode", "episode": "healthy"})
            assert (receipt["status"], receipt["frames"], receipt["error"]) == ("sealed", 10, None)
            assert "Traceback" not in server.output
            assert len(server.lines) < 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_open_episodes_of_others_take_nothing_from_an_episode(tmp_path):
    options = ("--store", str(tmp_path), "--max-clients", "8", "--max-connecting", "16")
    with serve(*options, files=300) as server, contextlib.ExitStack() as stack:
        victim = stack.enter_context(connect(server.url))
        assert victim.metadata["limits"]["episodes"] < 200
        victim.ask(observation(collect_latents=True, episode={"id": "victim"}))
        outcomes = Counter()
        for client in range(6):
            other = stack.enter_context(connect(server.url))
            for number in range(33):
                message = {"request": "begin_episode", "episode": f"other-{client}-{number}", "collect_latents": SPEC}
                outcomes[other.ask(message).get("code", "ok")] += 1
            assert "actions" in victim.ask(observation(episode={"id": "victim"}))
        assert set(outcomes) == {"ok", "overloaded"}
        assert outcomes["ok"] == victim.metadata["limits"]["episodes"] - 1
        assert "latents" in victim.ask(observation(collect_latents=True, episode={"id": "victim"}))
        receipt = victim.ask({"request": "end_episode", "episode": "victim"})
        assert (receipt["status"], receipt["frames"], receipt["error"]) == ("sealed", 2, None)
        with connect(server.url) as newcomer:
            reply = newcomer.ask({"request": "begin_episode", "episode": "next", "collect_latents": SPEC})
            assert reply["attempt"] == 1  # in the victim's place
        assert "Traceback" not in server.output
    RunWriter.recover(server.run)
    assert not list(verify(LatentStore(tmp_path).episodes()))


def test_descriptors_are_shared_out():
    usual = Limits(max_clients=64, max_connecting=128)
    assert episodes_to_hold(20_000, usual, writers=4) == 2048
    assert 500 < episodes_to_hold(1024, usual, writers=4) < 1024
    assert episodes_to_hold(1024, dataclasses.replace(usual, max_episodes=100), writers=4) == 100
    for wrong in ({"max_episodes": 1000}, {"max_clients": 1000}):
        with pytest.raises(ServeError, match="this process may have 1024"):
            episodes_to_hold(1024, dataclasses.replace(usual, **wrong), writers=4)


def test_the_soft_limit_is_raised():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with serve("--warm-up", "none", ready=False) as server:
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 1 << 16)


def test_the_socket_that_is_silent_longest_goes():
    arrivals = Arrivals(4, 2)
    pairs = [socket.socketpair() for _ in range(8)]

    def gone_so_far() -> list[int]:
        found = []
        for number, (_, far) in enumerate(pairs):
            with contextlib.suppress(BlockingIOError):
                if far.recv(1, socket.MSG_DONTWAIT) == b"":
                    found.append(number)
        return found

    for number, host in enumerate(["a", "a", "a", "b", "b"]):
        arrivals.arrived(pairs[number][0], (host, number))
    assert gone_so_far() == [0]  # the first of three from one host
    arrivals.let_in(("a", 1))
    arrivals.arrived(pairs[5][0], ("c", 5))
    assert gone_so_far() == [0]
    arrivals.arrived(pairs[6][0], ("d", 6))
    assert gone_so_far() == [0, 3]  # of the host that has most
    pairs[2][0].close()
    assert len(arrivals) == 3
    arrivals.hang_up()
    assert len(arrivals) == 0
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_socket_whose_request_waits_to_be_read_is_not_silent(caplog):
    arrivals = Arrivals(4, 2)
    with contextlib.ExitStack() as stack:
        pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(7)]

        def arrive(number: int, host: str, says: bytes) -> None:
            pairs[number][1].sendall(says)
            arrivals.arrived(pairs[number][0], (host, number))

        for number in range(4):  # more than of one host, as all of them speak
            arrive(number, "a", b"GET /")
        assert len(arrivals) == 4
        assert not caplog.records
        arrive(4, "b", b"")  # the overall bound holds all the same
        assert len(arrivals) == 4
        assert pairs[0][1].recv(1) == b""
        assert pairs[1][0].recv(10) == b"GET /"
        arrive(5, "c", b"")  # what was read speaks no more
        assert pairs[1][1].recv(1) == b""
        for number in (2, 3):
            assert pairs[number][0].recv(10) == b"GET /"
        assert [record.getMessage() for record in caplog.records] == [
            "hung up on a connection of a before its handshake was over: 5 were on their way to one; at most 4 may be, 2 of"
            " them from one host"
        ] * 2  # fmt: skip


@pytest.mark.parametrize("count", [40, 60])
def test_clients_of_one_host_that_come_together_are_all_let_in(server, count):
    async def one() -> str:
        async with websockets.connect(
            server.url, compression=None, max_size=None, open_timeout=60, proxy=None
        ) as client:
            await client.recv()
            await everybody.wait()
            return "let in"

    everybody = asyncio.Barrier(count)

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(count)))

    assert asyncio.run(all_of_them()) == ["let in"] * count


def test_a_port_that_is_taken_is_refused_for_every_address():
    with contextlib.ExitStack() as stack:
        (first, *more) = listen("localhost", 0, Arrivals(4, 1))
        for listening in (first, *more):
            stack.enter_context(listening)
            listening.listen()
        with pytest.raises(OSError, match="Address already in use"):
            listen("localhost", first.getsockname()[1], Arrivals(4, 1))


def test_a_failure_that_repeats_itself_is_logged_once_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vlascope_server.serving.monitoring.time.monotonic", lambda: now[0])
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger, keeper = logging.Logger("test"), Keeper()
    keeper.addFilter(OncePerSecond())
    logger.addHandler(keeper)
    for number in range(500):
        logger.error("episode %d is not stored", number)
        logger.warning("another")
        logger.info("no failure")
    now[0] = 1.5
    logger.error("episode %d is not stored", 7)
    assert [line for line in lines if line != "no failure"] == [
        "episode 0 is not stored", "another", "episode 7 is not stored (and 499 more like it)",
    ]  # fmt: skip
    assert lines.count("no failure") == 500


def test_an_episode_that_is_withdrawn_leaves_its_place_to_others(tmp_path):
    layout = Pi0Policy.load("tiny").layout
    plan = plan_capture(CaptureSpec.from_map(SPEC), layout)
    episodes = Episodes(RunWriter.create(tmp_path, "x", layout), most=1)
    for attempt in (1, 2):
        episode = episodes.begin(object(), EpisodeInfo("a", {"task_id": attempt}))
        assert episodes.open_writer(episode, plan).attempt == attempt
        episodes.withdraw(episode)
        episodes.withdraw(episode)
    accepted = episodes.begin(owner := object(), EpisodeInfo("a", {"task_id": 3}))
    accepted.accepted = True
    episodes.open_writer(accepted, plan)
    episodes.withdraw(accepted)
    assert episodes.end(owner, "a", True, 1).status == "sealed"
    episodes.close()
    found = [LatentStore(tmp_path).episode("a", attempt=attempt) for attempt in (1, 2, 3)]
    assert [(e.status, e.frames) for e in found] == [("interrupted", 0), ("interrupted", 0), ("sealed", 0)]


@pytest.mark.parametrize("where", ["run_writer.write_table", "episode_writer.seal_episode"])
def test_a_reply_never_says_sealed_and_error(tmp_path, monkeypatch, where):
    layout = Pi0Policy.load("tiny").layout
    plan = plan_capture(CaptureSpec.from_map(SPEC), layout)
    run = RunWriter.create(tmp_path, "x", layout)
    episodes, owner = Episodes(run), object()
    episode = episodes.begin(owner, EpisodeInfo("a", {}))
    writer = episodes.open_writer(episode, plan)
    writer.append({tensor.path: np.zeros(tensor.shape, np.float32) for tensor in plan.tensors}, 0)

    def refused(*args, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(f"vlascope_latents.store.{where}", refused)
    sealed = episodes.end(owner, "a", True, 1)
    assert (sealed.status, sealed.error is None) in {("sealed", True), ("interrupted", False)}
    assert sealed.frames == 1
    episodes.close()
