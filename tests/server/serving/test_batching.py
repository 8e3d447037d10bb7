"""Many at once get what each would get alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from vlascope_latents import CaptureSpec
from vlascope_server.policies.contract import PLAIN, RequestShape, draw_noise
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.policies.programs import Programs
from vlascope_server.serving.batcher import Batcher

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect, observation

TEXT = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), reduction="mean")


@pytest.fixture(scope="module")
def policy() -> Pi0Policy:
    return Pi0Policy.load("tiny")


@pytest.fixture(scope="module")
def programs(policy):
    made = Programs(policy, max_batch=4, pad=True)
    for future in [made.want(shape_of(made, spec), size) for spec in (None, TEXT) for size in made.sizes]:
        future.result()
    yield made
    made.close()


def shape_of(programs: Programs, spec: CaptureSpec | None) -> RequestShape:
    return PLAIN if spec is None else RequestShape(programs.plan(spec))


class Recorder:
    """Runs a batcher and keeps what every batch was."""

    def __init__(self, policy, programs, *, active: int, max_wait: float = 5.0):
        self.policy, self.programs, self.sizes = policy, programs, []
        self.batcher = Batcher(
            programs,
            max_wait=max_wait,
            active_clients=lambda spec: active,
            on_batch=lambda n, _: self.sizes.append(n),
        )

    def submit(self, seed: int, spec: CaptureSpec | None = None):
        message = observation(seed)
        return self.batcher.submit(
            self.policy.prepare(message), draw_noise(seed, self.policy.noise_shape), shape_of(self.programs, spec)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.batcher.close()


def test_sizes_are_few(policy):
    assert Programs(policy, 8, pad=True).sizes == (1, 2, 4, 8)
    assert Programs(policy, 6, pad=True).sizes == (1, 2, 4, 6)
    assert Programs(policy, 1, pad=True).sizes == (1,)
    assert [Programs(policy, 4, pad=True).size_for(n) for n in range(1, 7)] == [1, 2, 4, 4, 4, 4]
    assert [Programs(policy, 4, pad=False).size_for(n) for n in range(1, 7)] == [1, 2, 2, 4, 4, 4]


def test_a_batch_gives_each_what_it_would_get_alone(policy, programs):
    with Recorder(policy, programs, active=1) as alone:
        single = [alone.submit(seed, TEXT).result() for seed in range(3)]
    with Recorder(policy, programs, active=3) as together:
        samples = [f.result() for f in [together.submit(seed, TEXT) for seed in range(3)]]
    assert alone.sizes == [1, 1, 1]
    assert together.sizes == [3]  # in a program for four
    for one, many in zip(single, samples, strict=True):
        np.testing.assert_allclose(many.actions, one.actions, atol=1e-5)
        found, expected = many.tensors()["vlm/hidden_states"], one.tensors()["vlm/hidden_states"]
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2**-7, atol=1e-5)
    with Recorder(policy, programs, active=3) as again:
        repeated = [f.result() for f in [again.submit(seed, TEXT) for seed in range(3)]]
    for one, other in zip(samples, repeated, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)


def test_specs_never_mix(policy, programs):
    with Recorder(policy, programs, active=4, max_wait=0.2) as recorder:
        futures = [recorder.submit(seed, spec) for seed, spec in enumerate([None, TEXT, None, TEXT])]
        samples = [future.result() for future in futures]
    assert recorder.sizes == [2, 2]
    assert [sorted(sample.latents) for sample in samples] == [[], ["vlm/hidden_states"]] * 2


def test_a_full_batch_waits_for_nobody(policy, programs):
    with Recorder(policy, programs, active=100, max_wait=60) as recorder:
        for future in [recorder.submit(seed) for seed in range(4)]:
            future.result(timeout=30)
    assert recorder.sizes == [4]


def test_one_client_waits_for_nobody(policy, programs):
    with Recorder(policy, programs, active=1, max_wait=60) as recorder:
        recorder.submit(0).result(timeout=30)
    assert recorder.sizes == [1]


def test_others_go_on_while_a_spec_compiles(policy, programs):
    compiling = threading.Event()
    release = threading.Event()
    original = programs._compile

    def slow(shape, size):
        compiling.set()
        assert release.wait(60)
        return original(shape, size)

    programs._compile = slow
    try:
        with Recorder(policy, programs, active=1) as recorder:
            waiting = recorder.submit(0, CaptureSpec(experts=("vlm",), layers=(1,), spans=("text",), reduction="last"))
            assert compiling.wait(60)
            for seed in range(3):
                recorder.submit(seed).result(timeout=60)
            assert not waiting.done()
            release.set()
            assert list(waiting.result(timeout=60).latents) == ["vlm/hidden_states"]
    finally:
        release.set()
        programs._compile = original


def test_more_specs_than_are_kept_are_all_answered(policy):
    programs = Programs(policy, max_batch=1, pad=False)
    compiled = programs.want(PLAIN, 1).result()
    programs._compile = lambda shape, size: compiled  # compiling itself is not what is tested
    specs = [CaptureSpec(experts=("vlm",), layers=(layer,), reduction="mean", dtype=dtype) for layer in range(8)
             for dtype in ("bfloat16", "float32")]  # fmt: skip
    with Recorder(policy, programs, active=1) as recorder:
        futures = [recorder.submit(0, spec) for spec in specs]
        assert {future.result(timeout=60).batch for future in futures} == {1}
    programs.want(shape_of(programs, TEXT), 1).result()
    assert len(programs._programs) <= 10  # the plain one, those that are kept, and the one that came last
    programs.close()


def test_what_cannot_be_compiled_is_said(policy):
    programs = Programs(policy, max_batch=1, pad=True)
    programs.want(PLAIN, 1).result()

    def broken(shape, size):
        raise RuntimeError("out of memory")

    programs._compile = broken
    with Recorder(policy, programs, active=1) as recorder:
        with pytest.raises(RuntimeError, match="out of memory"):
            recorder.submit(0, TEXT).result(timeout=60)
        assert recorder.submit(0).result(timeout=60).batch == 1
    programs.close()


def test_over_the_wire_eight_clients_get_what_one_gets(tmp_path):
    with serve("--store", str(tmp_path), "--max-batch", "4", "--max-wait-ms", "50", "--warm-up", "all") as server:
        with connect(server.url) as wire:
            alone = [wire.ask(observation(seed)) for seed in range(8)]
        barrier = threading.Barrier(8)

        def one(seed: int) -> list[dict]:
            with connect(server.url) as wire:
                barrier.wait()
                return [
                    wire.ask(observation(seed, collect_latents=True, episode={"id": f"e{seed}"})) for _ in range(3)
                ] + [wire.ask({"request": "end_episode", "episode": f"e{seed}"})]

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(one, range(8)))
        assert max(reply["policy_timing"]["batch"] for row in replies for reply in row[:3]) > 1
        for seed, row in enumerate(replies):
            for reply in row[:3]:
                np.testing.assert_allclose(reply["actions"], alone[seed]["actions"], atol=1e-5)
            assert (row[3]["frames"], row[3]["dropped"]) == (3, 0)


def test_deterministic_gives_the_same_bits_whoever_else_is_there():
    with serve("--deterministic") as server, connect(server.url) as wire:
        assert wire.metadata["deterministic"] is True
        alone = wire.ask(observation(0))["actions"]
        stop = threading.Event()

        def others(seed: int) -> None:
            with connect(server.url) as other:
                while not stop.is_set():
                    other.ask(observation(seed))

        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(others, seed) for seed in (1, 2, 3)]
            time.sleep(0.2)
            for _ in range(10):
                reply = wire.ask(observation(0))
                assert reply["policy_timing"]["batch"] == 1
                np.testing.assert_array_equal(reply["actions"], alone)
            stop.set()
            for future in futures:
                future.result()
