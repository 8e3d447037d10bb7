"""A policy of one's own, which computes with numpy alone, keeps the contract and is served and captured like any other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlascope_client import ExpectedSpec, PolicyClient, SpecMismatchError
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore
from vlascope_server.policies.contract import RequestShape, plan_request

from tests.server.policies.conformance import PolicyConformance
from tests.server.policies.decoding_policy import DecodingPolicy
from tests.server.policies.linear_policy import LinearPolicy
from tests.server.serving.live_server import LiveServer, run_server
from tests.server.serving.wire import connect

ROOT = Path(__file__).parents[3]

SERVE = """
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from {module} import {name}
from vlascope_server.serving.application import serve
from vlascope_server.serving.options import ServeOptions

def started(server):
    print("storing  ", server.run, flush=True)
    print("listening", server.url, flush=True)

serve({name}, ServeOptions(port=0, store=Path(sys.argv[1]), min_free=0), started)
print("imported", sorted(name for name in ("jax", "jaxlib", "torch", "orbax") if name in sys.modules), flush=True)
"""


def seen(number: int = 0, **fields: Any) -> dict[str, Any]:
    """What the policy's arm sends."""
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, (16 + number, 20, 3), np.uint8), "state": rng.standard_normal(3),
        "prompt": "reach for the cup", **fields,
    }  # fmt: skip


class TestDecodingPolicy(PolicyConformance):
    specs = (
        CaptureSpec(experts=("decoder",), components="all"),
        CaptureSpec.from_map({"sites": [{"expert": "decoder", "component": "logits", "steps": [0, 3]}]}),
    )
    make = DecodingPolicy

    @staticmethod
    def observations() -> list[dict[str, Any]]:
        return [seen(seed) for seed in range(3)]


@contextlib.contextmanager
def served(policy: type[LinearPolicy], store: Path, *, faulty: bool = False) -> Iterator[LiveServer]:
    """A policy on a websocket, in a process that is found to have imported neither JAX nor torch when it ends.

    One that is `faulty` may leave tracebacks in the server's log.
    """
    program = SERVE.format(root=str(ROOT), module=policy.__module__, name=policy.__name__)
    with run_server([sys.executable, "-c", program, str(store)]) as server:
        yield server
        assert server.stop() == 0, server.output
        assert server.output.rstrip().endswith("imported []"), server.output
        assert faulty or "Traceback" not in server.output


def computed(policy: LinearPolicy, message: dict[str, Any], spec: CaptureSpec, drawn: Any = None) -> Any:
    """Actions and outcome of one message, with nothing between it and the policy."""
    prepared = policy.prepare(message)
    outcome = policy.compile(RequestShape(plan_request(spec, policy.layout)), 1).run([prepared], [drawn])
    return policy.robot_actions(np.asarray(outcome.actions)[0], prepared), outcome


def test_it_is_served_and_captured_without_jax(tmp_path):
    policy, spec = LinearPolicy(), CaptureSpec(components="all")
    with served(LinearPolicy, tmp_path) as server, PolicyClient(server.url) as client:
        said = client.metadata
        assert (said.model, said.robot, said.cameras, said.action_horizon) == ("linear", "arm", {"front": "image"}, 4)
        assert (said.denoise_steps, said.noise_shape, said.capture.denoise_steps) == (None, None, None)
        assert (said.fingerprint, said.capture.experts) == (policy.fingerprint, ("reflex",))
        for number in range(3):
            reply = client.infer(seen(number), collect_latents=spec, episode="reached", timestep=5 * number)
            np.testing.assert_array_equal(reply.actions, computed(policy, seen(number), spec)[0])
            assert reply.latents is not None
            assert (reply.seed, reply.warnings, reply.latents.frame) == (None, (), number)
        plain = client.infer(seen(0))
        np.testing.assert_array_equal(plain.actions, computed(policy, seen(0), spec)[0])
        returned = client.infer(seen(0), collect_latents={"layers": [1]}, return_latents=True, episode="returned")
        assert returned.latents is not None
        assert {path: array.shape for path, array in returned.latents.tensors.items()} == {
            "reflex/hidden_states": (1, 8)
        }
        assert client.end_episode("reached", success=True).frames == 3
    store = LatentStore(server.run)
    assert store.runs[0].model["checkpoint"] == "drawn from seed 0"
    assert (store.runs[0].model["denoise_steps"], store.runs[0].model["noise_seed"]) == (None, None)
    assert store.runs[0].layout == policy.layout
    for component in ("hidden_states", "moments"):
        kept = store.select("reflex", component, episodes="reached")
        expected = [computed(policy, seen(n), spec)[1].latents[f"reflex/{component}"][0] for n in range(3)]
        np.testing.assert_array_equal(kept.array(), expected)
    assert kept.labels["timestep"].tolist() == [0, 5, 10]
    np.testing.assert_array_equal(kept.values("state"), np.float32([seen(n)["state"] for n in range(3)]))
    assert kept.values("noise_seed").tolist() == [-1, -1, -1]


def test_what_it_does_not_have_is_said_in_one_line(tmp_path):
    with served(LinearPolicy, tmp_path) as server, connect(server.url) as wire:
        seeded = wire.ask(seen(0, seed=7))
        assert seeded["warnings"] == ["seed: this policy draws nothing: its actions are the same for every seed"]
        assert seeded["seed"] is None
        np.testing.assert_array_equal(seeded["actions"], wire.ask(seen(0, seed=8))["actions"])
        refused = wire.ask(seen(0, noise=np.zeros((4, 2), np.float32)))
        assert (refused["code"], refused["field"]) == ("invalid_field", "noise")
        assert refused["message"] == "noise: this policy takes none: leave it out"
        for request in ({"request": "plan"}, seen(0)):
            refused = wire.ask({**request, "collect_latents": {"denoise_steps": [0]}})
            assert (refused["code"], refused["field"]) == ("invalid_spec", "collect_latents.denoise_steps")
            assert "this policy has no denoise steps: leave it out" in refused["message"]
        refused = wire.ask(seen(0, image=None))
        assert (refused["code"], refused["field"]) == ("invalid_observation", "image")
        told = wire.ask(seen(0, collect_latent=True))["warnings"]
        assert told == ["collect_latent: is no field and was not read; did you mean collect_latents?"]
        with pytest.raises(SpecMismatchError, match=r"denoise_steps: expected 10, found None$"):
            PolicyClient(server.url, expects=ExpectedSpec(robot="arm", denoise_steps=10)).infer(seen(0))


def test_one_that_decodes_is_stored_with_how_far_it_came(tmp_path):
    policy, spec = DecodingPolicy(), CaptureSpec(experts=("decoder",), components="all")
    with served(DecodingPolicy, tmp_path) as server, PolicyClient(server.url) as client:
        assert client.metadata.capture.default_spec["components"] == "all"  # no expert of it has hidden states
        expected = []
        for seed in range(6):
            reply = client.infer(seen(0), collect_latents=spec, episode="told", timestep=seed, seed=seed)
            actions, outcome = computed(policy, seen(0), spec, policy.draw(seed))
            np.testing.assert_array_equal(reply.actions, actions)
            assert (reply.seed, reply.warnings) == (seed, ())
            expected.append(outcome)
        again = client.infer(seen(0))
        assert again.seed is not None
        np.testing.assert_array_equal(client.infer(seen(0), seed=again.seed).actions, again.actions)
        assert client.end_episode("told").frames == 6
    tokens = LatentStore(server.run).select("decoder", "tokens", episodes="told")
    counts = [int(outcome.decode_steps["decoder"][0]) for outcome in expected]
    assert len(set(counts)) > 1
    assert tokens.values("decode_steps/decoder").tolist() == counts
    assert tokens.values("noise_seed").tolist() == list(range(6))
    np.testing.assert_array_equal(tokens.array(), [outcome.latents["decoder/tokens"][0] for outcome in expected])


def test_the_documentation_shows_this_policy():
    """The page's Python blocks are the files that are tested here, and that test it."""
    for name in ("linear_policy.py", "test_linear_policy.py"):
        assert (ROOT / "tests/server/policies" / name).read_text() in (ROOT / "docs/policies.md").read_text()
