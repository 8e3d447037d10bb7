"""A key that looks like a field is told, in the reply and once in the log, and other unknown keys are nobody's business."""

from __future__ import annotations

import pytest
from vlascope_client import PolicyClient
from vlascope_server.robots import ROBOTS, Libero
from vlascope_server.serving.typos import Typos

from tests.server.serving.wire import observation


def robot_keys(**more) -> dict:
    return {key: value for key, value in observation().items() if key != "seed"} | more


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("collect_latens", "collect_latents"), ("clolect_latent", "collect_latents"), ("eipsode", "episode"),
        ("collect_latent", "collect_latents"), ("collectLatents", "collect_latents"), ("colect_latents", "collect_latents"),
        ("Collect-Latents", "collect_latents"), ("return_latent", "return_latents"), ("annotation", "annotations"),
        ("time_step", "timestep"), ("Seed", "seed"), ("episodes", "episode"), ("requests", "request"),
    ],
)  # fmt: skip
def test_near_keys(key, meant):
    typos = Typos(Libero().read)
    assert typos.warnings(robot_keys(**{key: True})) == [f"{key}: is no field and was not read; did you mean {meant}?"]


@pytest.mark.parametrize(
    "key",
    [
        "timestamp",
        "depth",
        "reward",
        "observation/image_2",
        "observation/wrist_image_left",
        "observation/gripper",
        "id",
        "episode_id",
        "request_id",
        "requested",
        "timestep_s",
        "prompt_id",
        "prompts",
        "seeded",
        "noisy",
        "return_latent_states",
    ],
)
def test_keys_that_mean_something_else(key):
    keys = robot_keys(**{key: True})
    assert Typos(Libero().read).warnings(keys) == []
    del keys["prompt"]  # the server has one
    assert Typos(Libero().read).warnings(keys) == []


def test_a_prompt_that_the_server_fills_in():
    message = {key: value for key, value in robot_keys().items() if key != "prompt"}
    (line,) = Typos(Libero().read).warnings({**message, "promt": "lift the can"})
    assert line.endswith("did you mean prompt?")


def test_a_robot_with_many_cameras_has_no_typo():
    droid = ROBOTS["droid"]
    known = {"observation/joint_position": [0.0] * 7, "observation/gripper_position": [0.0], "prompt": "x"}
    images = {key: observation()["observation/image"] for key in droid.spec.cameras.values()}
    message = {**known, **images, "observation/exterior_image_2_left": 0}
    assert Typos(droid.read).warnings(message) == []


def test_it_is_told_in_the_reply_and_once_in_the_log(server, wire):
    for _ in range(3):
        reply = wire.ask(observation(collect_latent=True))
        assert reply["warnings"] == ["collect_latent: is no field and was not read; did you mean collect_latents?"]
        assert "latents" not in reply
    assert "warnings" not in wire.ask(observation())
    assert server.output.count("did you mean collect_latents") == 1
    with PolicyClient(server.url) as client:
        assert "did you mean collect_latents?" in client.infer(observation(collect_latent=True)).warnings[0]
        with pytest.raises(TypeError, match="unknown option 'collect_latent'"):
            client.infer(observation(), collect_latent=True)  # pyright: ignore[reportCallIssue]


def test_many_keys_are_looked_at_no_further():
    typos = Typos(Libero().read)
    assert typos.warnings(robot_keys(**{f"collect_latent{n}": 1 for n in range(1000)})) == []
