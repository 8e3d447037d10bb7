"""The memory that a message takes is bounded by its bytes, and so is the error that answers it."""

from __future__ import annotations

import json
import tracemalloc

import msgpack
import numpy as np
import pytest
from vlascope_client.bounds import DEPTH, ITEMS, KEY_BYTES, TEXT_BYTES
from vlascope_client.codec import pack
from vlascope_server.serving.errors import RequestError, error_json
from vlascope_server.serving.messages import Infer, read_request

from tests.server.serving.wire import observation

TEXTS = ["a" * 10_000] + [""] * 10_000
"""As a numpy array: four hundred megabytes."""
CONTROL = "\1" * 60_000
"""As JSON: six times as long."""
IMAGE, STATE, METADATA = "observation/image", "observation/state", "episode.metadata"


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def with_value(key: str, value: bytes) -> bytes:
    """A map of one entry, whose value is given as msgpack."""
    packed = msgpack.packb(key)
    assert packed is not None
    return b"\x81" + packed + value


ROWS = {
    "a long text among many, annotations": ({"annotations": {"x": TEXTS}}, "invalid_field", "annotations.x"),
    "a long text among many, noise": ({"noise": TEXTS}, "invalid_field", "noise"),
    "a long text among many, image": (observation(**{IMAGE: TEXTS}), "invalid_observation", IMAGE),
    "a long text among many, state": (observation(**{STATE: [TEXTS]}), "invalid_observation", STATE),
    "a long text among many, another key": (observation(other={"x": TEXTS}), "invalid_observation", "other/x"),
    "bytes in a list": ({"annotations": {"x": [b"a" * 9000] + [b""] * 9000}}, "invalid_field", "annotations.x"),
    "arrays in a list": (observation(**{STATE: [np.zeros(500_000, np.uint8), np.float64(1)]}), "invalid_observation", STATE),
    "text that is no array": (observation(**{IMAGE: "a" * 60_000}), "invalid_observation", IMAGE),
    "bytes that are no array": (observation(**{IMAGE: b"a" * 4_000_000}), "invalid_observation", IMAGE),
    "an array of long texts": ({"annotations": {"x": np.array(["a" * 200_000] * 4)}}, "invalid_field", "annotations.x"),
    "annotations of bytes": ({"annotations": {"x": np.zeros(4_000_000, np.int8)}}, "invalid_field", "annotations"),
    "a spec of an array": ({"collect_latents": {"layers": np.zeros(4_000_000, np.int8)}}, "invalid_spec", "collect_latents"),
    "control characters": ({"episode": {"metadata": {str(n): CONTROL for n in range(60)}}}, "invalid_field", METADATA),
    "a request of bytes": ({"request": b"\0" * 4_000_000}, "unknown_request", "request"),
    "a seed of bytes": ({"seed": b"\0" * 4_000_000}, "invalid_field", "seed"),
    "an id of texts": ({"episode": {"id": np.array(["a" * 200_000] * 4)}}, "invalid_field", "episode.id"),
    "empty lists": (msgpack.packb([[]] * 2_000_000), "bad_message", None),
    "empty lists in lists": (msgpack.packb({"a": [[[]] * 1000] * 1000}), "bad_message", None),
    "empty maps": (msgpack.packb([{}] * 2_000_000), "bad_message", None),
    "small texts": (msgpack.packb(["ab"] * 1_000_000), "bad_message", None),
    "many keys": (msgpack.packb({str(n): n for n in range(100_000)}), "bad_message", None),
    "lists that promise to be long": (b"\xdd\x00\x0f\xff\xff" * 500, "bad_message", None),
    "a thousand lists in one another": (nested(1000), "bad_message", None),
    "a thousand lists in an annotation": (with_value("annotations", with_value("x", nested(1000))), "bad_message", None),
    "a thousand lists in metadata": (with_value("episode", with_value("metadata", nested(1000))), "bad_message", None),
    "a thousand lists in a spec": (with_value("collect_latents", with_value("layers", nested(1000))), "bad_message", None),
    "a thousand lists in an image": (with_value(IMAGE, nested(1000)), "bad_message", None),
    "a long key": ({"k" * (KEY_BYTES + 1): 1}, "bad_message", None),
    "a key of bytes": ({b"k" * (KEY_BYTES + 1): 1}, "bad_message", None),
    "a long text": ({"prompt": "a" * (TEXT_BYTES + 1)}, "bad_message", None),
    "a time": (msgpack.packb({"a": msgpack.Timestamp(1, 1)}), "bad_message", None),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_memory_is_bounded_by_the_bytes(name):
    message, code, field = ROWS[name]
    data = message if isinstance(message, bytes) else pack(message)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as refused:
            read_request(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data) + 8_000_000
    assert (refused.value.code, refused.value.field) == (code, field)
    check_error(refused.value.to_json())


def check_error(text: str) -> None:
    assert len(text.encode()) <= 2000
    assert "\n" not in text
    assert "\n" not in json.loads(text)["message"]


def test_what_is_just_within_the_bounds_is_read():
    deep: object = 1
    for _ in range(DEPTH - 4):
        deep = [deep]
    request = read_request(pack(observation(episode={"metadata": {"deep": deep, "long": "é" * 2000}}, noise=None)))
    assert isinstance(request, Infer)
    assert request.episode is not None
    assert request.episode.metadata["deep"] == deep
    numbers = [[0.5] * 32] * 100
    request = read_request(pack({**observation(seed=None), "noise": numbers, "annotations": {"x": [1, True, 2.5]}}))
    assert isinstance(request, Infer)
    assert request.noise is not None
    assert request.noise.shape == (100, 32)
    np.testing.assert_array_equal(request.annotations["x"], [1, 1, 2.5])
    assert ITEMS > 100 * 33 + 30


@pytest.mark.parametrize(
    "text", ["a" * 9000, "é" * 9000, "\U0001f600" * 9000, "\ud800" * 9000, '"\\' * 9000, "a\n\x00\u2028b" * 900]
)
def test_an_error_is_one_line_of_two_kilobytes(text):
    check_error(error_json("internal", text, text, [text] * 100))
    check_error(error_json("internal", "short", "field", [text[:300]] * 100))


def test_a_short_error_is_told_in_full():
    found = json.loads(error_json("invalid_field", "seed: é", "seed", ["a", "b"]))
    assert found == {"code": "invalid_field", "message": "seed: é", "field": "seed", "allowed": ["a", "b"]}
