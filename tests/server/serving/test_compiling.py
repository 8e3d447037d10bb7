"""Nobody holds the compiler: what nobody waits for is not compiled, clients take turns, an end does not wait for it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import socket
import threading
import time

import jax
import pytest
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore
from vlascope_server.policies.compile_queue import CompileQueue, TooManyJobsError
from vlascope_server.policies.contract import PLAIN, RequestShape, draw_noise
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.policies.programs import Programs
from vlascope_server.serving.batcher import Batcher

from tests.server.serving.live_server import LiveServer, serve
from tests.server.serving.wire import connect, observation

SPECS = [
    {"layers": list(layers), "experts": ["vlm"], "spans": ["text"], "reduction": "mean"}
    for layers in itertools.combinations(range(8), 3)
]


class Client:
    def __init__(self, host: str = "here"):
        self.host = host


def order(queue: CompileQueue) -> list:
    keys = []
    while (job := queue.take()) is not None:
        keys.append(job.key)
        queue.done(job)
    return keys


def test_clients_take_turns():
    queue, busy, newcomer, elsewhere = CompileQueue(), Client(), Client(), Client("there")
    queue.ask("busy 1", busy)
    assert order(queue) == ["busy 1"]
    queue.ask("busy 2", busy)
    queue.ask("busy 3", busy)
    queue.ask("newcomer", newcomer)
    queue.ask("elsewhere", elsewhere)
    queue.ask("the server's own", None)
    assert order(queue) == ["the server's own", "elsewhere", "newcomer", "busy 2", "busy 3"]


def test_one_host_with_many_clients_leaves_every_second_turn_to_another():
    queue = CompileQueue()
    many, few = [Client() for _ in range(4)], [Client("there") for _ in range(2)]
    for number, client in enumerate(many):
        queue.ask(f"many {number}", client)
    for number, client in enumerate(few):
        queue.ask(f"few {number}", client)
    assert order(queue) == ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]


def test_a_client_waits_for_two_jobs_at_most():
    queue, client = CompileQueue(), Client()
    queue.ask("a", client)
    assert queue.ask("a, larger", client, optional=True) is not None
    assert queue.ask("a, largest", client, optional=True) is None
    assert queue.ask("b", client) is not None  # instead of the one that it can do without
    with pytest.raises(TooManyJobsError):
        queue.ask("c", client)
    assert queue.ask("a", client) is not None  # waits for it already
    assert order(queue) == ["a", "b"]


def test_what_is_optional_comes_last():
    queue = CompileQueue()
    queue.ask("larger", Client(), optional=True)
    queue.ask("needed", Client())
    assert order(queue) == ["needed", "larger"]


def test_a_job_leaves_with_the_last_who_asks():
    queue, first, second = CompileQueue(), Client(), Client()
    queue.ask("shared", first)
    queue.ask("shared", second)
    queue.ask("alone", first)
    assert [job.key for job in queue.gone(first)] == ["alone"]
    assert [job.key for job in queue.gone(second)] == ["shared"]
    assert len(queue) == 0


@pytest.fixture(scope="module")
def policy() -> Pi0Policy:
    return Pi0Policy.load("tiny")


class Held:
    """A compiler that compiles when it is told to."""

    def __init__(self, policy: Pi0Policy):
        self.programs = Programs(policy, max_batch=1, pad=False)
        self.program = self.programs.want(PLAIN, 1).result()
        self.compiled: list[CaptureSpec | None] = []
        self.go_on = threading.Event()
        self.programs._compile = self._compile

    def _compile(self, shape, size):
        self.compiled.append(shape.capture and shape.capture.spec)
        assert self.go_on.wait(60)
        return self.program

    def want(self, spec, client):
        return self.programs.want(RequestShape(self.programs.plan(spec)), 1, client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.programs.close()


def specs(count: int) -> list[CaptureSpec]:
    return [CaptureSpec.from_map(spec) for spec in SPECS[:count]]


def test_what_nobody_waits_for_is_not_compiled(policy):
    with Held(policy) as held:
        clients = [Client() for _ in range(6)]
        futures = []
        for spec, client in zip(specs(6), clients, strict=True):
            futures.append(held.want(spec, client))
            while not held.programs.compiling:
                time.sleep(0.01)
        for client in clients[:5]:
            held.programs.gone(client)
        held.go_on.set()
        assert futures[5].result(60) is held.program
        assert held.compiled == [specs(6)[0], specs(6)[5]]  # the first had begun
        assert [future.cancelled() for future in futures[1:5]] == [True] * 4
        assert held.want(specs(6)[2], Client()).result(60) is held.program


def test_what_nobody_waits_for_is_not_computed(policy):
    with Held(policy) as held:
        batches: list[int] = []
        batcher = Batcher(
            held.programs,
            max_wait=0,
            active_clients=lambda spec: 1,
            on_batch=lambda size, _: batches.append(size),
        )
        prepared, noise = policy.prepare(observation()), draw_noise(0, policy.noise_shape)
        futures = [
            batcher.submit(prepared, noise, RequestShape(held.programs.plan(specs(1)[0])), Client()) for _ in range(5)
        ]
        assert all(future.cancel() for future in futures[:4])
        held.go_on.set()
        futures[4].result(60)
        batcher.close()
        assert batches == [1]


def test_who_waits_at_the_end_is_told(policy):
    with Held(policy) as held:
        running, waiting = (held.want(spec, Client()) for spec in specs(2))
        while not held.programs.compiling:
            time.sleep(0.01)
        held.programs.close()
        for future in (running, waiting):
            with pytest.raises(RuntimeError, match="shutting down"):
                future.result(10)


def test_programs_that_are_let_go_leave_memory(policy):
    programs = Programs(policy, max_batch=1, pad=False, kept_shapes=2)
    client = jax.devices()[0].client

    def live() -> int:
        gc.collect()
        return len(client.live_executables())

    programs.want(PLAIN, 1).result()
    before = live()
    counts = []
    for spec in specs(5):
        programs.want(RequestShape(programs.plan(spec)), 1).result()
        counts.append(live() - before)
    programs.close()
    # two that are kept, and the one that came last
    assert max(counts) <= 3, counts
    assert len(programs._programs) <= 4


def compiling(server: LiveServer) -> int:
    return server.output.count("compiling for")


def test_clients_that_hang_up_hold_neither_slots_nor_the_compiler(tmp_path):
    with serve("--store", str(tmp_path), "--max-clients", "20") as server:
        before = compiling(server)
        for number, spec in enumerate(SPECS[:20]):
            with connect(server.url) as wire:
                # more than one, so that the server does not read to the end of what was sent
                for timestep in range(4):
                    wire.send(observation(collect_latents=spec, episode={"id": f"gone-{number}"}, timestep=timestep))
                wire.socket.socket.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 60
        while "vlascope_clients 0.0" not in server.get("/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with connect(server.url) as newcomer:
            reply = newcomer.ask(observation(collect_latents=SPECS[30], episode={"id": "there"}))
            assert reply["latents"]["frame"] == 0
            # the newcomer's, and those that had begun before their clients were known to be gone
            assert compiling(server) - before <= 8
            assert newcomer.ask({"request": "end_episode", "episode": "there"})["status"] == "sealed"
        assert {episode.id: episode.frames for episode in LatentStore(tmp_path).episodes() if episode.frames} == {
            "there": 1
        }
        assert "Traceback" not in server.output


def test_an_end_waits_for_no_compiler(tmp_path):
    with serve("--store", str(tmp_path)) as server, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connect(server.url)) for _ in range(24)]
        for wire, spec in zip(wires, SPECS[31:], strict=False):
            wire.send(observation(collect_latents={**spec, "reduction": "last"}))
        time.sleep(0.5)
        begun = time.monotonic()
        assert server.stop(60) == 0
        assert time.monotonic() - begun < 10
        replies = [wire.receive() for wire in wires]
        assert {reply.get("code", "ok") for reply in replies} <= {"ok", "shutting_down"}
        assert "shutting_down" in {reply.get("code") for reply in replies}
        assert "Traceback" not in server.output
