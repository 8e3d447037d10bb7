"""Everything that a client can get wrong: answered, and connection and server live on."""

from __future__ import annotations

import socket
import struct
import time

import msgpack
import numpy as np
import pytest
from vlascope_client.codec import pack
from vlascope_latents.store import LatentStore, verify
from vlascope_server.commands import main
from websockets.exceptions import ConnectionClosed

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect, observation

SPEC = {"layers": [0], "spans": ["text"], "experts": ["vlm"], "reduction": "mean"}
OBJECTS = msgpack.packb({"prompt": {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "|O", b"shape": [1]}})
WRONG_SIZE = msgpack.packb({"x": {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [3]}})
HUGE = msgpack.packb({"x": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [2**40, 2**40]}})
NESTED = b"\x91" * 5000 + b"\xc0"


DEEP: dict = {"request": "end_episode", "episode": "x", "metadata": {}}
for _ in range(31):
    DEEP["metadata"] = {"in": DEEP["metadata"]}


def without(key: str) -> dict:
    return {k: v for k, v in observation().items() if k != key}


IMAGE = "observation/image"
STATE = "observation/state"

ROWS = {
    "no msgpack": (b"\xc1 nonsense", "bad_message", None),
    "empty": (b"", "bad_message", None),
    "text frame": ("hello", "bad_message", None),
    "no map": (msgpack.packb([1, 2]), "bad_message", None),
    "two messages in one": (pack({}) + pack({}), "bad_message", None),
    "object dtype": (OBJECTS, "bad_message", None),
    "array of the wrong size": (WRONG_SIZE, "bad_message", None),
    "array that is too large to be": (HUGE, "bad_message", None),
    "nested without end": (NESTED, "bad_message", None),
    "camera is missing": (without(IMAGE), "invalid_observation", IMAGE),
    "another robot's camera": ({**without(IMAGE), "observation/exterior_image_1_left": 0}, "invalid_observation", IMAGE),
    "image without channels": (observation(**{IMAGE: np.zeros((8, 8), np.uint8)}), "invalid_observation", IMAGE),
    "image without pixels": (observation(**{IMAGE: np.zeros((0, 8, 3), np.uint8)}), "invalid_observation", IMAGE),
    "image of integers": (observation(**{IMAGE: np.zeros((8, 8, 3), np.int32)}), "invalid_observation", IMAGE),
    "image of text": (observation(**{IMAGE: "a.png"}), "invalid_observation", IMAGE),
    "ragged image": (observation(**{IMAGE: [[1, 2], [3]]}), "invalid_observation", IMAGE),
    "state of another width": (observation(**{STATE: np.zeros(7)}), "invalid_observation", STATE),
    "state with NaN": (observation(**{STATE: np.full(8, np.nan)}), "invalid_observation", STATE),
    "state of text": (observation(**{STATE: np.array(["a"] * 8)}), "invalid_observation", STATE),
    "prompt is missing": (without("prompt"), "invalid_observation", "prompt"),
    "prompt is no text": (observation(prompt=3), "invalid_observation", "prompt"),
    "prompt is too long": (observation(prompt="a" * 4097), "invalid_observation", "prompt"),
    "long prompt as an array": (observation(prompt=np.array("a" * 4097)), "invalid_observation", "prompt"),
    "long text of a robot as an array": (observation(task=np.array("a" * 4097)), "invalid_observation", "task"),
    "long task as an array": (
        observation(episode={"task_instruction": np.array("a" * 4097)}), "invalid_field", "episode.task_instruction"
    ),
    "long name as an array": (observation(episode={"task_name": np.array("a" * 4097)}), "invalid_field", "episode.task_name"),
    "long suite as an array": (observation(episode={"suite": np.array("a" * 4097)}), "invalid_field", "episode.suite"),
    "long episode as an array": (observation(episode=np.array("a" * 97)), "invalid_field", "episode.id"),
    "long id as an array": (observation(episode={"id": np.array("a" * 97)}), "invalid_field", "episode.id"),
    "long metadata as an array": (
        observation(episode={"metadata": {"x": np.array("a" * 20_000)}}), "invalid_field", "episode.metadata"
    ),
    "long request as an array": ({"request": np.array("a" * 4097)}, "unknown_request", "request"),
    "unknown component": (observation(collect_latents={"components": ["x"]}), "invalid_spec", "collect_latents.components"),
    "layer out of range": (observation(collect_latents={"layers": [8]}), "invalid_spec", "collect_latents.layers"),
    "negative layer": (observation(collect_latents={"layers": [-1]}), "invalid_spec", "collect_latents.layers"),
    "no such step": (observation(collect_latents={"denoise_steps": [10]}), "invalid_spec", "collect_latents.denoise_steps"),
    "unknown span": (observation(collect_latents={"spans": ["sound"]}), "invalid_spec", "collect_latents.spans"),
    "two specs in one": (
        b"\x82\xa7request\xa4plan\xafcollect_latents\x82" + 2 * (b"\xa6layers" + b"\x91\x00"), "bad_message", None
    ),
    "flow steps of the vlm": (
        observation(collect_latents={"experts": ["vlm"], "denoise_steps": [0]}), "invalid_spec", "collect_latents.denoise_steps"
    ),
    "layers of the flow": (
        observation(collect_latents={"components": ["x_t"], "layers": [99]}), "invalid_spec", "collect_latents.layers"
    ),
    "too many sites": (
        {"request": "plan", "collect_latents": {"sites": [
            {"expert": "vlm", "component": "k", "name": f"k{n}"} for n in range(1500)
        ]}},
        "invalid_spec", "collect_latents.sites",
    ),
    "too many layers": (
        {"request": "plan", "collect_latents": {"layers": list(range(5000))}}, "invalid_spec", "collect_latents.layers"
    ),
    "map of layers": ({"request": "plan", "collect_latents": {"layers": {"0": 1}}}, "invalid_spec", "collect_latents.layers"),
    "bytes for layers": ({"request": "plan", "collect_latents": {"layers": b"ab"}}, "invalid_spec", "collect_latents.layers"),
    "truth values for layers": (
        {"request": "plan", "collect_latents": {"layers": np.array([True, False])}}, "invalid_spec", "collect_latents.layers"
    ),
    "unknown field of a spec": (observation(collect_latents={"layer": [1]}), "invalid_spec", "collect_latents.layer"),
    "spec is no map": (observation(collect_latents="all"), "invalid_field", "collect_latents"),
    "episode id with path parts": (observation(episode={"id": "../../etc"}), "invalid_field", "episode.id"),
    "episode id of dots": (observation(collect_latents=SPEC, episode={"id": ".."}), "invalid_field", "episode.id"),
    "episode id that is long": (observation(episode={"id": "a" * 97}), "invalid_field", "episode.id"),
    "episode with a path": (observation(episode={"id": "a", "store": "/runs"}), "invalid_field", "episode.store"),
    "episode id of two campaigns": (observation(episode={"id": "a+b+c"}), "invalid_field", "episode.id"),
    "campaign beside the id": (
        observation(episode={"metadata": {"campaign": "a"}}), "invalid_field", "episode.metadata.campaign"
    ),
    "episode that is said to be told": (observation(episode={"instruction": "wave"}), "invalid_field", "episode.instruction"),
    "the same in its metadata": (
        observation(episode={"metadata": {"instruction": "wave"}}), "invalid_field", "episode.metadata.instruction"
    ),
    "episode metadata too large": (observation(episode={"metadata": {"x": "a" * 20_000}}), "invalid_field", "episode.metadata"),
    "negative timestep": (observation(timestep=-1), "invalid_field", "timestep"),
    "timestep of text": (observation(timestep="3"), "invalid_field", "timestep"),
    "seed too large": (observation(seed=2**63), "invalid_field", "seed"),
    "seed and noise": (observation(noise=np.zeros((10, 32), np.float32)), "invalid_field", "noise"),
    "noise of another shape": ({**without("seed"), "noise": np.zeros((3, 3))}, "invalid_field", "noise"),
    "noise with infinity": ({**without("seed"), "noise": np.full((10, 32), np.inf)}, "invalid_field", "noise"),
    "noise above float32": ({**without("seed"), "noise": np.full((10, 32), 1e39)}, "invalid_field", "noise"),
    "annotation above float32": (observation(annotations={"pose": [0.0, -1e39]}), "invalid_field", "annotations.pose"),
    "annotation of text": (observation(annotations={"pose": "left"}), "invalid_field", "annotations.pose"),
    "annotation with a path": (observation(annotations={"../x": 1.0}), "invalid_field", "annotations"),
    "annotations too large": (observation(annotations={"x": np.zeros(5000)}), "invalid_field", "annotations"),
    "unknown request": ({"request": "shutdown"}, "unknown_request", "request"),
    "request of a wrong type": ({"request": [1]}, "unknown_request", "request"),
    "request that is an array": ({"request": np.zeros(3)}, "unknown_request", "request"),
    "ragged noise": ({**without("seed"), "noise": [[1.0], [1.0, 2.0]]}, "invalid_field", "noise"),
    "an array among layers": (observation(collect_latents={"layers": [np.zeros(2)]}), "invalid_spec", "collect_latents.layers"),
    "metadata with NaN": (observation(episode={"metadata": {"x": float("nan")}}), "invalid_field", "episode.metadata"),
    "unknown field of a request": ({"request": "status", "path": "/etc"}, "invalid_field", "path"),
    "end without an id": ({"request": "end_episode"}, "invalid_field", "episode"),
    "end of an episode never begun": ({"request": "end_episode", "episode": "nobody"}, "unknown_episode", "episode"),
    "success that is no boolean": ({"request": "end_episode", "episode": "x", "success": "yes"}, "invalid_field", "success"),
    "what is said at the end is no map": (
        {"request": "end_episode", "episode": "x", "metadata": [1]}, "invalid_field", "metadata"
    ),
    "an array is said at the end": (
        {"request": "end_episode", "episode": "x", "metadata": {"pose": np.zeros(3)}}, "invalid_field", "metadata"
    ),
    "what is said at the end is nested too deep": (msgpack.packb(DEEP), "bad_message", None),
    "message above the limit": ({"x": b"\0" * 1_100_000}, "message_too_large", None),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_is_answered_and_the_connection_lives_on(wire, server, name):
    message, code, field = ROWS[name]
    error = wire.ask(message)
    assert (error.get("code"), error.get("field")) == (code, field), error
    assert set(error) == {"code", "message", "field", "allowed"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    assert ".py" not in error["message"]
    assert wire.ask(observation())["actions"].shape == (10, 7)
    assert "Traceback" not in server.output


def test_a_frame_that_does_not_fit_its_episode_is_refused_before_anything_is_compiled(wire, server):
    episode = {"id": "never-compiled"}
    changed = SPEC | {"layers": [2, 5], "dtype": "float32"}
    assert wire.ask(observation(episode=episode, collect_latents=SPEC))["latents"]["frame"] == 0
    compiled = server.output.count("compiling for")
    for fields in (
        {"collect_latents": changed},
        {"collect_latents": changed, "annotations": {"new": 1.0}},
        {"collect_latents": changed, "prompt": "another"},
    ):
        assert wire.ask(observation(episode=episode, **fields))["code"] == "spec_changed"
    error = wire.ask({"request": "begin_episode", "episode": episode, "collect_latents": changed})
    assert (error["code"], error["field"]) == ("spec_changed", "collect_latents")
    assert server.output.count("compiling for") == compiled
    assert wire.ask({"request": "begin_episode", "episode": episode, "collect_latents": SPEC})["attempt"] == 1
    assert wire.ask(observation(episode=episode, collect_latents=SPEC))["latents"]["frame"] == 1
    assert wire.ask({"request": "end_episode", "episode": "never-compiled"})["frames"] == 2


def test_a_spec_that_changes_within_an_episode(wire):
    episode = {"id": "changing"}
    assert wire.ask(observation(episode=episode, collect_latents=SPEC))["latents"]["frame"] == 0
    error = wire.ask(observation(episode=episode, collect_latents=SPEC | {"layers": [1]}))
    assert (error["code"], error["field"]) == ("spec_changed", "collect_latents")
    assert "layer 0" in error["message"]
    assert "layer 1" in error["message"]
    error = wire.ask(observation(episode=episode, collect_latents=SPEC, annotations={"new": 1.0}))
    assert (error["code"], error["field"]) == ("spec_changed", "annotations")
    assert wire.ask(observation(episode=episode, collect_latents=SPEC))["latents"]["frame"] == 1
    assert wire.ask({"request": "end_episode", "episode": "changing"})["frames"] == 2


def test_two_clients_in_one_episode(server, wire):
    wire.ask(observation(episode={"id": "shared"}, collect_latents=SPEC))
    with connect(server.url) as other:
        for message in (
            observation(episode={"id": "shared"}),
            observation(episode={"id": "shared"}, collect_latents=SPEC),
        ):
            error = other.ask(message)
            assert (error["code"], error["field"]) == ("episode_in_use", "episode.id")
        assert other.ask({"request": "end_episode", "episode": "shared"})["code"] == "unknown_episode"
        assert other.ask(observation())["actions"].shape == (10, 7)
    receipt = wire.ask({"request": "end_episode", "episode": "shared", "success": True})
    assert (receipt["status"], receipt["frames"]) == ("sealed", 1)


def test_too_many_open_episodes(server, wire):
    for number in range(32):
        assert "episode" in wire.ask({"request": "begin_episode", "episode": {"id": f"many-{number}"}})
    assert wire.ask({"request": "begin_episode", "episode": {"id": "one-more"}})["code"] == "overloaded"
    wire.ask({"request": "end_episode", "episode": "many-0"})
    assert wire.ask({"request": "begin_episode", "episode": {"id": "one-more"}})["episode"] == "one-more"


def test_far_above_the_limit_ends_the_connection_only(server):
    with connect(server.url) as wire:
        wire.send(b"\0" * 2_500_000)
        with pytest.raises(ConnectionClosed) as closed:
            wire.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with connect(server.url) as wire:
        assert wire.ask(observation())["actions"].shape == (10, 7)


def test_a_client_that_vanishes_in_mid_message(server):
    before = LatentStore(server.run).episodes()
    with connect(server.url) as wire:
        wire.ask(observation(episode={"id": "vanishing"}, collect_latents=SPEC))
        raw = wire.socket.socket
        half = pack(observation())
        # a masked binary frame that promises more than comes
        raw.sendall(b"\x82" + bytes([0x80 | 127]) + struct.pack(">Q", len(half)) + b"\0\0\0\0" + half[: len(half) // 2])
        raw.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = {episode.id: episode for episode in LatentStore(server.run).episodes()}
        if "vanishing" in found and found["vanishing"].status != "open":
            break
        time.sleep(0.05)
    assert found["vanishing"].status == "interrupted"
    assert found["vanishing"].frames == 1
    assert len(found) == len(before) + 1
    assert not list(verify(LatentStore(server.run).episodes()))
    with connect(server.url) as wire:
        assert wire.ask(observation())["actions"].shape == (10, 7)


REFUSED = {
    "spec": ({"collect_latents": {"layers": [99]}}, "invalid_spec"),
    "another annotation": ({"annotations": {"other": 1.0}}, "spec_changed"),
    "prompt": ({"prompt": "bow"}, "spec_changed"),
}
"""Of an episode that has frames."""


def test_numbers_that_float32_cannot_hold_are_named(wire, server):
    error = wire.ask(observation(annotations={"force": np.array([np.inf, 1.0, 1e300])}))
    limits = "-3.402823e+38 to 3.402823e+38"
    assert error["message"] == f"annotations.force: expected numbers from {limits}, as float32 holds, found 1e+300"
    most = float(np.finfo(np.float32).max)
    values = {"force": np.array([np.inf, np.nan, most, -most])}
    assert "actions" in wire.ask(observation(annotations=values))
    assert "RuntimeWarning" not in server.output


def test_an_episode_may_be_named_by_an_array(wire):
    assert "actions" in wire.ask(observation(episode=np.array("of-an-array"), prompt=np.array("wave")))
    receipt = wire.ask({"request": "end_episode", "episode": np.array("of-an-array")})
    assert receipt["episode"] == "of-an-array"


def test_an_observation_that_is_refused_has_begun_no_episode(server, wire):
    first = {"id": "refused-first", "task_id": 1, "task_name": "A", "task_instruction": "A"}
    second = {"id": "refused-first", "task_id": 2, "task_instruction": "B"}
    refused = wire.ask(observation(collect_latents={"layers": [99]}, episode=first, prompt="told A"))
    assert refused["code"] == "invalid_spec"
    assert wire.ask({"request": "end_episode", "episode": "refused-first"})["code"] == "unknown_episode"
    with connect(server.url) as other:
        reply = other.ask(observation(collect_latents=SPEC, episode=second, prompt="told B"))
        assert reply["latents"]["attempt"] == 1
        assert other.ask({"request": "end_episode", "episode": "refused-first"})["frames"] == 1
    assert LatentStore(server.run).episode("refused-first").metadata == {
        "task_id": 2, "task_instruction": "B", "instruction": "told B",
    }  # fmt: skip


def test_refusals_do_not_use_up_a_connections_episodes(wire):
    for number in range(40):
        message = observation(collect_latents={"layers": [99]}, episode={"id": f"refused-{number}"})
        assert wire.ask(message)["code"] == "invalid_spec"
        assert wire.ask(observation(collect_latents={"layers": [99]}))["code"] == "invalid_spec"
    assert "latents" in wire.ask(observation(collect_latents=SPEC, episode={"id": "not-refused"}))
    assert wire.ask({"request": "end_episode", "episode": "not-refused"})["frames"] == 1


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"lifted_first": "milk_1", "success": True}, "metadata.success"),
        ({"init_state": 3}, "metadata.init_state"),
        ({"prompt_mode": "other"}, "metadata.prompt_mode"),
        ({"moved": float("inf")}, "metadata"),
        ({"moved": b"bytes"}, "metadata"),
        ({"x": "a" * (16_384 - len('{"x": ""}') + 1)}, "metadata"),
    ],
)
def test_an_end_that_is_refused_leaves_the_episode_open(wire, server, metadata, field):
    kept = {"collect_latents": SPEC, "episode": {"id": "refused-end", "metadata": {"prompt_mode": "task"}}}
    attempt = wire.ask(observation(**kept))["latents"]["attempt"]
    error = wire.ask({"request": "end_episode", "episode": "refused-end", "success": True, "metadata": metadata})
    assert (error["code"], error["field"]) == ("invalid_field", field)
    assert len(error["message"]) < 300
    assert "\n" not in error["message"]
    assert wire.ask(observation(**kept))["latents"]["frame"] == 1
    receipt = wire.ask({"request": "end_episode", "episode": "refused-end", "metadata": {"lifted_first": None}})
    assert (receipt["status"], receipt["frames"], receipt["attempt"]) == ("sealed", 2, attempt)
    told = LatentStore(server.run).episode("refused-end").metadata
    assert told == {"prompt_mode": "task", "lifted_first": None, "instruction": observation()["prompt"]}


@pytest.mark.parametrize("name", REFUSED)
def test_an_episode_that_was_accepted_outlives_a_refusal(wire, server, name):
    fields, code = REFUSED[name]
    episode = {"id": f"accepted-{name.replace(' ', '-')}"}
    kept = {"collect_latents": SPEC, "episode": episode, "annotations": {"distance": 1.0}}
    wire.ask(observation(**kept))
    assert wire.ask(observation(**{**kept, **fields}))["code"] == code
    wire.ask(observation(**kept))
    receipt = wire.ask({"request": "end_episode", "episode": episode})
    assert (receipt["frames"], receipt["attempt"], receipt["error"]) == (2, 1, None)


def test_a_refused_beginning_takes_no_episode_that_goes_on(wire):
    assert "actions" in wire.ask(observation(episode={"id": "goes-on"}))
    error = wire.ask(observation(collect_latents={"layers": [99]}, episode={"id": "goes-on"}))
    assert error["code"] == "invalid_spec"
    assert wire.ask({"request": "end_episode", "episode": "goes-on"})["status"] == "sealed"


def test_an_observation_that_is_refused_cuts_no_episode_in_two(wire):
    names = [wire.ask(observation(collect_latents=SPEC, prompt="wave"))["latents"]["episode"]]
    assert wire.ask(observation(collect_latents={"layers": [99]}, prompt="bow"))["code"] == "invalid_spec"
    reply = wire.ask(observation(collect_latents=SPEC, prompt="wave"))["latents"]
    assert (reply["episode"], reply["frame"]) == (names[0], 1)


def test_frames_that_are_lost_before_the_prompt_changes_are_told(tmp_path):
    with serve("--store", str(tmp_path), "--warm-up", "none") as server, connect(server.url) as wire:
        name = wire.ask(observation(collect_latents=SPEC, prompt="wave"))["latents"]["episode"]
        folder, aside = server.run / "latents.zarr", server.run / "aside"
        while wire.ask({"request": "status"})["pending"]:
            time.sleep(0.02)
        folder.rename(aside)
        folder.touch()  # where no folder is, nothing can be written
        assert wire.ask(observation(collect_latents=SPEC, prompt="wave"))["latents"]["frame"] == 1
        while wire.ask({"request": "status"})["pending"]:
            time.sleep(0.02)
        folder.unlink()
        aside.rename(folder)
        reply = wire.ask(observation(collect_latents=SPEC, prompt="bow"))
        (warning,) = reply["warnings"]
        assert warning.startswith(f"episode {name}: ended as interrupted where the prompt changed: ")
        assert "1 frame is committed" in warning
        assert "warnings" not in wire.ask(observation(collect_latents=SPEC, prompt="bow"))


def test_captures_without_a_store():
    with serve("--warm-up", "none") as server, connect(server.url) as wire:
        error = wire.ask(observation(collect_latents=SPEC))
        assert (error["code"], error["field"]) == ("no_store", "collect_latents")
        assert "capturing" not in server.output, "what is refused is not compiled"
        reply = wire.ask(observation(collect_latents=SPEC, return_latents=True))
        assert reply["latents"]["run"] is None
        assert reply["latents"]["tensors"]["vlm/hidden_states"]["data"].shape == (1, 1, 96)


def test_a_disk_that_must_stay_free(tmp_path):
    with (
        serve("--store", str(tmp_path), "--min-free", "900TB", "--warm-up", "none") as server,
        connect(server.url) as wire,
    ):
        error = wire.ask(observation(collect_latents=SPEC))
        assert error["code"] == "store_failed"
        assert "make room" in error["message"]
        error = wire.ask({"request": "begin_episode", "episode": "a", "collect_latents": SPEC})
        assert error["code"] == "store_failed"
        assert wire.ask({"request": "end_episode", "episode": "a"})["code"] == "unknown_episode"
        for number in range(34):
            error = wire.ask(observation(collect_latents=SPEC, episode={"id": f"e{number}"}))
            assert (error["code"], "make room" in error["message"]) == ("store_failed", True)
        assert wire.ask({"request": "begin_episode", "episode": "a"})["episode"] == "a"
        assert wire.ask({"request": "begin_episode", "episode": "a", "collect_latents": SPEC})["code"] == "store_failed"
        assert wire.ask({"request": "end_episode", "episode": "a"})["status"] == "sealed"
        assert not list(server.run.glob("index/*"))
        assert wire.ask(observation())["actions"].shape == (10, 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--store", "{file}/runs"], "cannot be written (Not a directory)"),
        (["--host", "0.0.0.0"], "--api-key-file"),  # noqa: S104
        (["--api-key-file", "{folder}/missing"], "cannot read the key"),
        (["--api-key-file", "{file}"], "at least 16"),
        (["--tls-cert", "{file}"], "both or neither"),
        (["--tls-cert", "{file}", "--tls-key", "{file}"], "cannot be used"),
        (["--checkpoint", "{folder}/nowhere"], "no such file or folder"),
        (["--capture", '{{"layers": [99]}}'], "99 is out of range"),
        (["--robot", "toaster"], "toaster"),
        (["--robot", "aloha"], "expected 14 dimensions for aloha"),
        (["--num-steps", "0"], "num_steps"),
        (["--queue-bytes", "1kB", "--store", "{folder}"], "one frame takes"),
        (["--max-batch", "0"], "--max-batch"),
    ],
)
def test_refuses_to_start(tmp_path, capsys, options, says):
    file = tmp_path / "file"
    file.write_text("short")
    options = [option.format(file=file, folder=tmp_path) for option in options]
    assert main(["serve", "--port", "0", *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("vlascope-server: ")
    assert says in last


@pytest.mark.parametrize(
    "options", [["--port", "{taken}"], ["--checkpoint", "{folder}/nowhere"], ["--queue-bytes", "1kB"]]
)
def test_a_server_that_never_was_leaves_no_folder(tmp_path, options):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        options = [option.format(taken=taken, folder=tmp_path) for option in options]
        assert main(["serve", "--port", "0", *options, "--store", str(tmp_path / "new/runs")]) == 2
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "old").mkdir()
        assert main(["serve", "--port", "0", *options, "--store", str(tmp_path / "old/runs")]) == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"], "it was there before"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--queue-bytes", "a lot"], ("--queue-bytes", "expected bytes such as", "found 'a lot'")),
    ],
)
def test_options_that_cannot_be_read(capsys, monkeypatch, options, says):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        main(["serve", "--port", "0", *options])
    assert done.value.code == 2
    error = capsys.readouterr().err
    for words in says:
        assert words in error


RIGHT = """expected JSON such as '{"layers": [5], "spans": ["text"]}'"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", f"{RIGHT}, found '{{' (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("{layers:[5]}", f"{RIGHT}, found '{{layers:[5]}}' (Expecting property name"),
        ("", f"{RIGHT}, found '' (Expecting value"),
        ("[" * 10**5, f"{RIGHT}, found '[[["),
        (f'{{"layers": [{"9" * 5000}]}}', f"{RIGHT}, found "),
        ("[1]", f"capture spec, spec: expected a map of fields, got list; {RIGHT}"),
        ("null", f"capture spec, spec: expected a map of fields, got NoneType; {RIGHT}"),
        ('{"layer": [1]}', "capture spec, layer: unknown field; allowed: experts"),
        ('{"layers": [-5]}', "capture spec, layers: -5 is no index: indices are whole numbers from 0; expected JSON"),
        ('{"layers": [5], "layers": [6]}', f"layers: is given twice; {RIGHT}"),
        ('{"sites": [{"expert": "vlm", "component": "k", "layers": [0], "layers": [1]}]}', "layers: is given twice"),
        ('{"a\\nb": 1, "a\\nb": 2}', r"a\nb: is given twice"),
    ],
)
def test_a_capture_that_cannot_be_read_is_one_line(capsys, text, says):
    assert main(["serve", "--port", "0", "--capture", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vlascope-server: --capture: {says}")
    assert "function" not in line
    assert 'such as \'{"layers": [5], "spans": ["text"]}\'' in line
    assert len(line) < 400
