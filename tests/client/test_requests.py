"""What is asked, what is answered, and what is refused; of both twins."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from vlascope_client import ExpectedSpec, PolicyConnectionError, PolicyError, ProtocolError, SpecMismatchError

from tests.client.conftest import Spec
from tests.client.scripted_server import LATENTS, METADATA, error, frame, scripted_server

OBSERVATION = {
    "observation/image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[:, ::-1],
    "observation/state": np.array([0.1, 0.2]),
    "prompt": "stack the cubes",
}


class TestInfer:
    def test_reply(self, connect: Any, server: Any) -> None:
        reply = connect(server.url).infer(OBSERVATION, seed=11, timestep=2)
        np.testing.assert_array_equal(reply.actions, np.arange(70, dtype=np.float32).reshape(10, 7) + 200)
        assert reply.actions.dtype == np.float32
        reply.actions[0] = 0  # the caller's own
        assert reply.state.tolist() == [0.5] * 8
        assert (reply.seed, reply.latents, reply.warnings) == (11, None, ())
        assert (reply.policy_timing["infer_ms"], reply.server_timing["infer_ms"]) == (1.0, 2.0)

    def test_observation_travels_as_it_is(self, connect: Any, server: Any) -> None:
        observation = {**OBSERVATION, "count": np.arange(3), "flag": True, "nested": {"x": np.float16(0.5)}}
        before = copy.deepcopy(observation)
        connect(server.url).infer(observation, collect_latents=True, episode="e", noise=np.zeros((10, 32)))
        assert list(observation) == list(before)
        (message,) = server.messages
        for name in ("observation/image", "observation/state", "count"):
            np.testing.assert_array_equal(message[name], before[name])
            np.testing.assert_array_equal(observation[name], before[name])
            assert message[name].dtype == before[name].dtype
        assert message["nested"]["x"].dtype == np.float16
        assert set(message) - set(before) == {"collect_latents", "episode", "noise"}

    def test_latents(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        assert client.infer(OBSERVATION, collect_latents=True, episode="e").latents.tensors == {}
        ticket = client.infer(OBSERVATION, collect_latents=True, episode="e", return_latents=True).latents
        assert (ticket.run, ticket.episode, ticket.attempt, ticket.frame, ticket.bytes) == ("run-0", "e", 1, 1, 48)
        assert (ticket.queue_bytes, ticket.queue_limit) == (5, 9)
        widened = (LATENTS.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(ticket.tensors["vlm/hidden_states"], widened)
        np.testing.assert_array_equal(ticket.tensors["action/v_t"], LATENTS)
        assert all(array.dtype == np.float32 for array in ticket.tensors.values())
        assert ticket.dims == {"vlm/hidden_states": ("feature",), "action/v_t": ("action",)}

    @pytest.mark.parametrize("given", [{"layers": [1]}, Spec()], ids=["map", "to_map"])
    def test_spec_and_episode_travel_as_maps(self, connect: Any, server: Any, given: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=given, episode={"id": "e", "task_id": 3})
        client.infer({**OBSERVATION, "collect_latents": given, "episode": "f"})
        assert [m["collect_latents"] for m in server.messages] == [{"layers": [1]}] * 2
        assert [m["episode"] for m in server.messages] == [{"id": "e", "task_id": 3}, {"id": "f"}]

    @pytest.mark.parametrize(
        ("observation", "options", "says"),
        [
            ({"seed": 1}, {"seed": 2}, "seed: is in the observation and given beside it"),
            ({"request": "status"}, {}, "has a key `request`"),
            ({}, {"collect_latents": "all"}, "collect_latents: expected a boolean, a map or a CaptureSpec, found str"),
            ({}, {"episode": 3}, "episode: expected its id or a map, found int"),
            ({"x": np.array([None])}, {}, "dtype object: cannot travel"),
            ({"x": {1, 2}}, {}, "set cannot travel"),
        ],
    )
    def test_what_cannot_be_asked(self, connect: Any, server: Any, observation: dict, options: dict, says: str) -> None:
        client = connect(server.url)
        with pytest.raises(ValueError, match=says):
            client.infer(observation, **options)
        assert client.infer(OBSERVATION).actions.shape == (10, 7)
        assert (len(server.messages), server.connections) == (1, 1)

    def test_unknown_option(self, connect: Any, server: Any) -> None:
        with pytest.raises(TypeError, match="unknown option 'colect_latents'; expected collect_latents"):
            connect(server.url).infer(OBSERVATION, colect_latents=True)

    def test_error(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        server.script.append(error("invalid_spec", field="collect_latents.layers", allowed=["0-1"]))
        with pytest.raises(PolicyError, match=r"it is invalid_spec \[invalid_spec\]") as caught:
            client.infer(OBSERVATION)
        found = caught.value
        assert (found.code, found.field, found.allowed) == ("invalid_spec", "collect_latents.layers", ("0-1",))
        assert client.infer(OBSERVATION).actions.shape == (10, 7)
        assert server.connections == 1

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"\xc1", "expected one msgpack map"),
            (b"\x92\x01\x02", "expected a map, found list"),
            (b"\x80", "reply.actions: expected ndarray, found no such field"),
        ],
    )
    def test_reply_that_is_none(self, connect: Any, server: Any, data: bytes, says: str) -> None:
        client = connect(server.url)
        server.script.append(frame(data))
        with pytest.raises(ProtocolError, match=says):
            client.infer(OBSERVATION)
        assert client.infer(OBSERVATION).actions.shape == (10, 7)


class TestOtherRequests:
    def test_episode(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        begun = client.begin_episode({"id": "e", "suite": "libero_10"}, collect_latents=Spec())
        assert (begun.episode, begun.run, begun.attempt) == ("e", "run-0", None)
        client.infer(OBSERVATION, episode="e", collect_latents=Spec())
        said = {"lifted": np.str_("milk_1"), "near": (np.float32(0.5), {"on": np.True_})}
        receipt = client.end_episode("e", success=np.True_, total_steps=np.int64(9), metadata=said)
        assert (receipt.episode, receipt.status, receipt.frames, receipt.dropped) == ("e", "sealed", 1, 0)
        first, _, last = server.messages
        assert first["episode"] == {"id": "e", "suite": "libero_10"}
        assert first["collect_latents"] == {"layers": [1]}
        assert (last["success"], last["total_steps"], last["episode"]) == (True, 9, {"id": "e"})
        assert last["metadata"] == {"lifted": "milk_1", "near": [0.5, {"on": True}]}
        client.end_episode("other")
        assert "metadata" not in server.messages[-1]
        with pytest.raises(ValueError, match="metadata: expected a map, found str"):
            client.end_episode("other", metadata="lifted")  # pyright: ignore[reportArgumentType]

    def test_server_names_the_episode(self, connect: Any, server: Any) -> None:
        assert connect(server.url).begin_episode().episode == "own-0"

    def test_a_plan_is_the_weight_of_a_frame(self, connect: Any, server: Any) -> None:
        assert connect(server.url).plan({"layers": [0]}) == 384

    def test_status(self, connect: Any, server: Any) -> None:
        status = connect(server.url).status()
        assert (status.ready, status.run, status.pending, status.uptime_s) == (True, "run-0", 2, 3.0)


class TestWhoIsThere:
    def test_metadata(self, connect: Any, server: Any) -> None:
        spec = connect(server.url).metadata
        assert (spec.robot, spec.action_horizon, spec.noise_shape) == ("libero", 10, (10, 32))
        assert spec.capture.spans["vlm"][0].stop == 4
        assert spec.raw == METADATA

    def test_expected(self, connect: Any, server: Any) -> None:
        same = {k: METADATA[k] for k in ("robot", "cameras", "image_size", "state_dim", "action_dim", "action_horizon")}
        same |= {k: METADATA[k] for k in ("gripper", "denoise_steps", "model", "checkpoint", "fingerprint")}
        connect(
            server.url, expects=ExpectedSpec(**same, deterministic=True, trained_on={"assets": "libero"}, store=True)
        )

    def test_mismatch_names_every_field(self, connect: Any, server: Any) -> None:
        expects = ExpectedSpec(
            robot="libero", action_dim=8, gripper="0 opens", store=False, trained_on={"assets": "own"}
        )
        with pytest.raises(SpecMismatchError) as caught:
            connect(server.url, expects=expects)
        assert caught.value.mismatches == (
            ("action_dim", 8, 7),
            ("gripper", "0 opens", "-1 opens, +1 closes"),
            ("trained_on.assets", "own", "libero"),
            ("store", "none", "run-0"),
        )
        assert "action_dim: expected 8, found 7; gripper: expected '0 opens'" in str(caught.value)
        assert len(server.keys) == 1  # an answer, not a reason to try again

    def test_newer_protocol(self, connect: Any) -> None:
        with (
            scripted_server({**METADATA, "protocol": 2}) as server,
            pytest.raises(ProtocolError, match="speaks protocol 2, this client up to 1"),
        ):
            connect(server.url)

    def test_metadata_that_lacks_a_field(self, connect: Any) -> None:
        metadata = {k: v for k, v in METADATA.items() if k != "robot"}
        with (
            scripted_server({**metadata, "robot ": 1}) as server,
            pytest.raises(ProtocolError, match=r"metadata.robot: expected str, found no such field"),
        ):
            connect(server.url)

    def test_plain_openpi_server(self, connect: Any) -> None:
        with scripted_server({"env": "ALOHA_SIM"}) as server:
            client = connect(server.url)
            assert client.infer(OBSERVATION).actions.shape == (10, 7)
            assert client.raw_metadata == {"env": "ALOHA_SIM"}
            for ask in (
                lambda: client.infer(OBSERVATION, collect_latents=True),
                lambda: client.infer({**OBSERVATION, "seed": 3}),
                client.status,
                client.begin_episode,
                lambda: client.end_episode("e"),
                lambda: client.metadata,
            ):
                with pytest.raises(ProtocolError, match="no vlascope server"):
                    ask()
            server.script.append(frame("Traceback (most recent call last): …"))
            with pytest.raises(PolicyError, match=r"^Traceback"):
                client.infer(OBSERVATION)
            with pytest.raises(SpecMismatchError, match="robot: expected 'libero', found None"):
                connect(server.url, expects=ExpectedSpec(robot="libero"))
            assert len(server.messages) == 2

    def test_key(self, connect: Any, server: Any) -> None:
        connect(server.url, api_key="secret")
        connect(server.url)
        assert server.keys == ["Api-Key secret", None]
        assert "secret" not in repr(connect(server.url, api_key="secret"))

    @pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (404, "not_found")])
    def test_refused_for_good(self, connect: Any, server: Any, status: int, code: str) -> None:
        server.refusals.append((status, f'{{"code": "{code}", "message": "not like this"}}'))
        with pytest.raises(PolicyConnectionError, match=f"refused with HTTP {status}: not like this") as caught:
            connect(server.url)
        assert (caught.value.status, caught.value.code) == (status, code)
        assert len(server.keys) == 1

    def test_refused_for_now(self, connect: Any, server: Any) -> None:
        full = (503, '{"code": "too_many_clients", "message": "4 clients are connected"}')
        server.refusals.extend([full, (502, "<html>bad gateway</html>")])
        assert connect(server.url).infer(OBSERVATION).actions.shape == (10, 7)
        server.refusals.extend([full] * 3)
        with pytest.raises(PolicyConnectionError, match=r"\(3 tries\).*4 clients are connected") as caught:
            connect(server.url, retries=2)
        assert (caught.value.status, caught.value.code) == (503, "too_many_clients")
