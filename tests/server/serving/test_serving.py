"""What a client gets over the wire is what the policy computes, and what it captured is what the store holds."""

from __future__ import annotations

import asyncio
import stat
import time

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from vlascope_client import AsyncPolicyClient, PolicyClient
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_latents.store import LatentStore
from vlascope_server.model import sample_actions
from vlascope_server.policies.contract import draw_noise
from vlascope_server.policies.pi0.policy import Pi0Policy

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect, observation

SMALL = {"layers": [3], "spans": ["text", "action"], "reduction": "mean"}
SITES = {
    "sites": [
        {"expert": expert, "component": "hidden_states", "layers": [3], "tokens": [span], "reduction": "mean"}
        for expert, span in (("vlm", "text"), ("action", "action"))
    ]
}
"""The same in the long form."""


@pytest.fixture(scope="module")
def policy() -> Pi0Policy:
    return Pi0Policy.load("tiny")


def compute(policy: Pi0Policy, message: dict, spec: CaptureSpec | None = None):
    """Actions and latents of one message, with nothing between it and the model."""
    prepared = policy.prepare({k: v for k, v in message.items() if k != "seed"})
    noise = draw_noise(message["seed"], policy.noise_shape)
    batch = policy.batch([prepared], 1)
    actions, latents = sample_actions(policy.params, policy.config, batch, jnp.asarray(noise)[None], capture=spec)
    return policy.robot_actions(np.asarray(actions)[0], prepared), {k: np.asarray(v)[0] for k, v in latents.items()}


def test_metadata_says_what_must_be_agreed_on(wire, server, policy):
    metadata = wire.metadata
    assert metadata["protocol"] == 1
    assert metadata["cameras"] == {"base_0_rgb": "observation/image", "left_wrist_0_rgb": "observation/wrist_image"}
    assert (metadata["state_dim"], metadata["action_dim"], metadata["action_horizon"]) == (8, 7, 10)
    assert (metadata["image_size"], metadata["denoise_steps"], metadata["noise_shape"]) == (112, 10, [10, 32])
    assert metadata["gripper"] == "-1 opens, +1 closes"
    assert metadata["fingerprint"] == policy.fingerprint
    capture = metadata["capture"]
    assert (capture["run"], capture["layers"]) == (server.run.name, 8)
    assert [span["name"] for span in capture["spans"]["action"]] == ["state", "action"]
    assert capture["frame_bytes"] == plan_capture(CaptureSpec(), policy.layout).nbytes
    assert metadata["limits"]["message_bytes"] == 1_000_000


def test_actions_are_the_models_bit_for_bit(wire, policy):
    for seed in range(3):
        message = observation(seed)
        reply = wire.ask(message)
        np.testing.assert_array_equal(reply["actions"], compute(policy, message)[0])
        assert (reply["actions"].dtype, reply["seed"]) == (np.float32, seed)
        np.testing.assert_array_equal(reply["state"], message["observation/state"])


def test_noise_that_is_sent_is_the_noise_that_is_used(wire):
    seeded = wire.ask(observation(5))
    message = {k: v for k, v in observation(5).items() if k != "seed"}
    given = wire.ask({**message, "noise": draw_noise(5, (10, 32))})
    np.testing.assert_array_equal(given["actions"], seeded["actions"])
    assert given["seed"] is None
    drawn = wire.ask(message)
    again = wire.ask({**message, "seed": drawn["seed"]})
    np.testing.assert_array_equal(drawn["actions"], again["actions"])
    assert wire.ask(message)["seed"] != drawn["seed"]


def test_what_is_captured_is_in_the_store(wire, server, policy):
    spec = CaptureSpec()
    episode = {
        "id": "kept",
        "suite": "libero_object",
        "task_id": 3,
        "task_name": "soup",
        "task_instruction": "pick up the cream cheese",
        "metadata": {"perturbed": True},
    }
    expected = []
    for number in range(3):
        message = observation(number, timestep=5 * number)
        plain = wire.ask(message)
        captured = wire.ask(
            {**message, "collect_latents": True, "episode": episode, "annotations": {"distance": 0.5 * number}}
        )
        np.testing.assert_array_equal(captured["actions"], plain["actions"])
        assert captured["latents"]["frame"] == number
        expected.append(compute(policy, {k: v for k, v in message.items() if k != "timestep"}, spec))
    receipt = wire.ask({"request": "end_episode", "episode": "kept", "success": True, "total_steps": 15})
    assert (receipt["status"], receipt["frames"], receipt["dropped"], receipt["attempt"]) == ("sealed", 3, 0, 1)
    store = LatentStore(server.run)
    kept = store.episode("kept")
    assert (kept.success, kept.status, kept.metadata["task_name"]) == (True, "sealed", "soup")
    assert kept.metadata["instruction"] == observation()["prompt"]
    assert kept.metadata["task_instruction"] == "pick up the cream cheese"
    assert kept.metadata["perturbed"] is True
    for expert in ("vlm", "action"):
        selection = store.select(expert, episodes="kept")
        found = selection.array("bfloat16")
        for number, (actions, latents) in enumerate(expected):
            np.testing.assert_array_equal(found[number], latents[f"{expert}/hidden_states"])
            np.testing.assert_array_equal(selection.values("actions")[number], actions)
    np.testing.assert_array_equal(selection.labels["timestep"], [0, 5, 10])
    np.testing.assert_array_equal(selection.values("annotations/distance"), np.float32([0, 0.5, 1]))
    np.testing.assert_array_equal(selection.values("noise_seed"), [0, 1, 2])
    np.testing.assert_allclose(selection.values("denoise_time")[0], np.linspace(1, 0.1, 10), rtol=1e-6)
    assert selection.values("prompt_mask")[0].sum() == policy.prepare(observation()).mask.sum()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_only_the_end_tells_is_kept_beside_what_the_beginning_told(server, asynchronous):
    seen = {key: value for key, value in observation().items() if key not in ("timestep", "seed")}
    begun = {"id": f"ended-{asynchronous}", "task_id": 3, "metadata": {"perturbed": True}}
    said = {"lifted_first": "milk_1", "near": np.bool_(True), "at": [np.float32(0.5)], "on": {"basket_1": False}}
    large = {"text": "a" * (16_384 - len('{"text": ""}'))}  # as much as is allowed

    async def ask():
        async with AsyncPolicyClient(server.url) as client:
            await client.infer(seen, collect_latents=SMALL, episode=begun)
            await client.end_episode(begun["id"], True, 9, metadata=said)
            await client.infer(seen, collect_latents=SMALL, episode=f"{begun['id']}-large")
            await client.end_episode(f"{begun['id']}-large", metadata=large)

    if asynchronous:
        asyncio.run(ask())
    else:
        with PolicyClient(server.url) as client:
            client.infer(seen, collect_latents=SMALL, episode=begun)
            client.end_episode(begun["id"], True, 9, metadata=said)
            client.infer(seen, collect_latents=SMALL, episode=f"{begun['id']}-large")
            client.end_episode(f"{begun['id']}-large", metadata=large)
    store = LatentStore(server.run)
    kept = store.episode(begun["id"])
    assert (kept.success, kept.row.total_steps) == (True, 9)
    assert kept.metadata == {
        "task_id": 3, "perturbed": True, "instruction": seen["prompt"],
        "lifted_first": "milk_1", "near": True, "at": [0.5], "on": {"basket_1": False},
    }  # fmt: skip
    labels = store.select("vlm", episodes=begun["id"]).labels
    assert {name: labels[name].tolist() for name in ("metadata.lifted_first", "metadata.near", "success")} == {
        "metadata.lifted_first": ["milk_1"], "metadata.near": [True], "success": [True]
    }  # fmt: skip
    assert store.episode(f"{begun['id']}-large").metadata["text"] == large["text"]


def test_a_plan_says_what_a_spec_weighs_and_captures_nothing(wire, policy):
    before = wire.ask({"request": "status"})["committed"]
    probe = {"profile": "probe", "layers": [3]}
    for spec, expected in ((None, CaptureSpec()), *((s, CaptureSpec.from_map(s)) for s in (SMALL, SITES, probe))):
        plan = wire.ask({"request": "plan", **({} if spec is None else {"collect_latents": spec})})
        wanted = plan_capture(expected, policy.layout)
        assert plan["bytes"] == wanted.nbytes
        assert [tensor["path"] for tensor in plan["tensors"]] == [tensor.path for tensor in wanted.tensors]
        assert [tuple(tensor["shape"]) for tensor in plan["tensors"]] == [tensor.shape for tensor in wanted.tensors]
        assert [tensor["reaches_actions"] for tensor in plan["tensors"]] == [s.reaches_actions for s in wanted.sites]
    error = wire.ask({"request": "plan", "collect_latents": {"layers": [8]}})
    assert (error["code"], error["field"]) == ("invalid_spec", "collect_latents.layers")
    wrong = {"sites": [SITES["sites"][0], {"expert": "vlm", "component": "k", "tokens": ["state"]}]}
    error = wire.ask({"request": "plan", "collect_latents": wrong})
    assert (error["code"], error["field"]) == ("invalid_spec", "collect_latents.sites[1].tokens")
    assert wire.ask({"request": "status"})["committed"] == before


def test_both_forms_of_a_spec_share_a_program_and_an_episode(wire, server):
    short = wire.ask(observation(2, collect_latents=SMALL, return_latents=True, episode={"id": "forms"}))
    compiled = server.output.count("compiling for")
    long = wire.ask(observation(2, collect_latents=SITES, return_latents=True, episode={"id": "forms"}))
    assert server.output.count("compiling for") == compiled
    assert [reply["latents"]["frame"] for reply in (short, long)] == [0, 1]
    for path, tensor in short["latents"]["tensors"].items():
        np.testing.assert_array_equal(tensor["data"], long["latents"]["tensors"][path]["data"])
    wire.ask({"request": "end_episode", "episode": "forms"})
    assert LatentStore(server.run).episode("forms").capture_spec() == CaptureSpec.from_map(SMALL)


def test_latents_that_come_back_are_those_that_are_kept(wire, server):
    reply = wire.ask(observation(1, collect_latents=SMALL, return_latents=True, episode={"id": "returned"}))
    wire.ask({"request": "end_episode", "episode": "returned"})
    for path, tensor in reply["latents"]["tensors"].items():
        assert tensor["logical_dtype"] == "bfloat16"
        stored = LatentStore(server.run).select(*path.split("/"), episodes="returned").array("bfloat16")[0]
        np.testing.assert_array_equal(tensor["data"].view(ml_dtypes.bfloat16), stored)


def test_an_id_again_is_a_new_attempt(wire, server):
    for attempt, success in ((1, False), (2, True)):
        reply = wire.ask(observation(attempt, collect_latents=SMALL, episode={"id": "twice"}))
        assert reply["latents"]["attempt"] == attempt
        wire.ask({"request": "end_episode", "episode": "twice", "success": success})
    store = LatentStore(server.run)
    assert store.episode("twice").success is True
    assert store.episode("twice", attempt=1).success is False


def test_two_campaigns_have_an_episode_of_one_name_at_once(server):
    with connect(server.url) as first, connect(server.url) as second:
        for wire, campaign in ((first, "one"), (second, "two"), (first, "one")):
            reply = wire.ask(observation(collect_latents=SMALL, episode={"id": f"{campaign}+same"}, prompt=campaign))
            assert (reply["latents"]["episode"], reply["latents"]["attempt"]) == (f"{campaign}+same", 1)
        for wire, campaign, frames in ((second, "two", 1), (first, "one", 2)):
            receipt = wire.ask({"request": "end_episode", "episode": f"{campaign}+same"})
            assert (receipt["frames"], receipt["attempt"]) == (frames, 1)
    store = LatentStore(server.run)
    assert [e.metadata["instruction"] for c in ("one", "two") for e in store.episodes(campaign=c)] == ["one", "two"]


def test_an_episode_may_be_begun_before_its_first_frame(wire, server):
    begun = wire.ask({"request": "begin_episode", "episode": {"id": "begun", "task_id": 1}, "collect_latents": SMALL})
    assert begun == {"request": "begin_episode", "episode": "begun", "run": server.run.name, "attempt": 1}
    assert wire.ask({"request": "begin_episode", "episode": {"task_id": 2}})["episode"].startswith("episode-")
    assert wire.ask(observation(episode={"id": "begun"}, collect_latents=True))["code"] == "spec_changed"
    receipt = wire.ask({"request": "end_episode", "episode": "begun", "success": False, "total_steps": 0})
    assert (receipt["status"], receipt["frames"]) == ("sealed", 0)
    assert LatentStore(server.run).episode("begun").metadata == {"task_id": 1}  # nothing was told


def test_an_episode_that_was_begun_is_told_by_its_first_frame(wire, server):
    begin = {
        "request": "begin_episode",
        "episode": {"id": "begun-told", "task_instruction": "own"},
        "collect_latents": SMALL,
    }
    wire.ask(begin)
    wire.ask(observation(collect_latents=SMALL, episode={"id": "begun-told"}, prompt="wave"))
    told = {"task_instruction": "own", "instruction": "wave"}
    assert LatentStore(server.run).episode("begun-told").metadata == told  # before it is sealed, and after
    assert wire.ask({"request": "end_episode", "episode": "begun-told"})["frames"] == 1
    assert LatentStore(server.run).episode("begun-told").metadata == told


def test_an_episode_has_one_instruction(wire, server):
    episode = {"id": "one-instruction"}
    wire.ask(observation(0, collect_latents=SMALL, episode=episode, prompt=""))
    assert "actions" in wire.ask(
        observation(1, episode=episode, prompt="wave")
    )  # what is not kept may be told anything
    error = wire.ask(observation(2, collect_latents=SMALL, episode=episode, prompt="wave"))
    assert (error["code"], error["field"]) == ("spec_changed", "prompt")
    assert error["message"] == (
        "prompt: episode one-instruction was told '', found 'wave': an episode has one instruction; end it first"
    )
    wire.ask(observation(3, collect_latents=SMALL, episode=episode, prompt=""))
    assert wire.ask({"request": "end_episode", "episode": "one-instruction"})["frames"] == 2
    again = wire.ask(observation(4, collect_latents=SMALL, episode=episode, prompt="wave"))
    wire.ask({"request": "end_episode", "episode": "one-instruction"})
    assert again["latents"]["attempt"] == 2
    store = LatentStore(server.run)
    found = [store.episode("one-instruction", attempt=n).metadata["instruction"] for n in (1, 2)]
    assert found == ["", "wave"]


def test_a_connection_that_names_no_episode_has_one_for_each_instruction(server):
    with connect(server.url) as wire:
        told = ["wave", "wave", "bow", "wave"]
        names = [
            wire.ask(observation(n, collect_latents=SMALL, prompt=prompt))["latents"]["episode"]
            for n, prompt in enumerate(told)
        ]
        assert "actions" in wire.ask(observation(4, prompt="bow"))
        assert wire.ask(observation(5, collect_latents=SMALL, prompt="wave"))["latents"]["episode"] == names[3]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    until(lambda: status(server, names[3]) == "sealed")
    store = LatentStore(server.run)
    for name, prompt, frames in ((names[0], "wave", 2), (names[2], "bow", 1), (names[3], "wave", 2)):
        episode = store.episode(name)
        assert (episode.status, episode.frames, episode.metadata["instruction"]) == ("sealed", frames, prompt)


def test_a_connection_has_an_episode_of_its_own(server):
    with connect(server.url) as wire:
        first = wire.ask(observation(1, collect_latents=SMALL))["latents"]
        second = wire.ask(observation(2, collect_latents=SMALL))["latents"]
        named = wire.ask(observation(3, collect_latents=SMALL, episode={"id": "left-open"}))["latents"]
    assert (first["episode"], first["frame"], second["frame"]) == (second["episode"], 0, 1)
    until(lambda: status(server, "left-open") == "interrupted")
    assert status(server, first["episode"]) == "sealed"
    assert status(server, named["episode"]) == "interrupted"
    timesteps = LatentStore(server.run).select("vlm", episodes=first["episode"]).labels["timestep"]
    np.testing.assert_array_equal(timesteps, [0, 1])


def test_status_counts_what_is_on_disk(wire):
    before = wire.ask({"request": "status"})
    wire.ask(observation(collect_latents=SMALL, episode={"id": "counted"}))
    wire.ask({"request": "end_episode", "episode": "counted"})
    after = wire.ask({"request": "status"})
    assert after["committed"] == before["committed"] + 1
    assert after["ready"] is True
    assert (after["clients"], after["requests_in_flight"]) == (1, 1)


def test_a_prompt_that_is_cut_is_said(wire):
    reply = wire.ask(observation(prompt="pick up the soup " * 40))
    assert "did not fit" in reply["warnings"][0]
    assert "warnings" not in wire.ask(observation())


def test_timing_adds_up(wire):
    wire.ask(observation())
    reply = wire.ask(observation())
    timing, server_timing = reply["policy_timing"], reply["server_timing"]
    parts = timing["transform_ms"] + timing["queue_ms"] + timing["model_ms"]
    assert 0 < timing["model_ms"] < parts <= timing["infer_ms"] <= server_timing["infer_ms"]
    assert server_timing["prev_total_ms"] > 0


def test_metrics_count(wire, server):
    wire.ask(observation(collect_latents=SMALL, episode={"id": "measured"}))
    wire.ask({"request": "end_episode", "episode": "measured"})
    wire.ask({"request": "nonsense"})
    code, text = server.get("/metrics")
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert code == 200
    assert float(numbers['vlascope_requests_total{outcome="ok",request="infer"}']) >= 1
    assert float(numbers['vlascope_requests_total{outcome="unknown_request",request="unknown"}']) >= 1
    assert float(numbers["vlascope_frames_committed_total"]) >= 1
    assert float(numbers["vlascope_bytes_written_total"]) > 0
    assert float(numbers["vlascope_queue_limit_bytes"]) == 1e9
    assert numbers["vlascope_ready"] == "1.0"
    for stage in ("read", "transform", "queue", "model", "reply", "fill", "total"):
        assert float(numbers[f'vlascope_stage_seconds_count{{stage="{stage}"}}']) >= 1
    assert server.get("/nothing")[0] == 404


def test_a_server_says_what_it_serves(server):
    for word in (
        "serving   tiny (pi0, float32, 10 denoise steps",
        "robot     libero",
        "a frame   383 kB",
        "listening ws://127.0.0.1:",
    ):
        assert word in server.output


def test_a_full_queue_drops_whole_frames_and_counts_them(tmp_path):
    # room for one frame: with one writer, some of a burst must find it taken
    with serve("--store", str(tmp_path), "--queue-bytes", "800kB", "--on-full", "drop", "--writers", "1") as server:
        with connect(server.url) as wire:
            frames = [
                wire.ask(observation(n, collect_latents=True, episode={"id": "e"}))["latents"]["frame"]
                for n in range(30)
            ]
            receipt = wire.ask({"request": "end_episode", "episode": "e"})
        kept = [frame for frame in frames if frame is not None]
        assert kept == list(range(len(kept)))
        assert (receipt["frames"], receipt["dropped"]) == (len(kept), 30 - len(kept))
        assert receipt["status"] == "sealed"


@pytest.mark.parametrize(("options", "mode"), [((), 0o700), (("--readable-by", "everyone"), 0o755)])
def test_a_servers_run_is_its_owners_unless_told_otherwise(tmp_path, options, mode):
    with serve("--store", str(tmp_path / "runs"), "--warm-up", "none", *options, ready=False) as server:
        folders = (server.run, tmp_path / "runs")
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [mode, mode]


def test_a_default_prompt_and_spec(tmp_path):
    options = ("--default-prompt", "be still", "--capture", '{"layers": [0], "experts": ["vlm"], "spans": ["text"]}')
    with serve("--store", str(tmp_path), "--warm-up", "none", *options) as server, connect(server.url) as wire:
        assert wire.metadata["default_prompt"] == "be still"
        assert wire.metadata["capture"]["default_spec"]["layers"] == [0]
        message = {k: v for k, v in observation().items() if k != "prompt"}
        reply = wire.ask({**message, "collect_latents": True, "episode": {"id": "e"}})
        wire.ask({"request": "end_episode", "episode": "e"})
        assert reply["latents"]["bytes"] == wire.metadata["capture"]["frame_bytes"] == 48 * 96 * 2
        assert LatentStore(tmp_path).episode("e").metadata["instruction"] == "be still"


def status(server, episode: str) -> str:
    return LatentStore(server.run).episode(episode).status


def until(done, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
