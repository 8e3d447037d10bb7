"""Messages that no client should send, made from a seed: junk, damaged messages, bombs, and wrong values in every field."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
from vlascope_client.codec import pack
from vlascope_client.protocol import OWN_FIELDS

from tests.server.serving.wire import observation

SPEC = {"layers": [0], "spans": ["text"], "experts": ["vlm"], "reduction": "mean"}
REQUESTS = ("begin_episode", "end_episode", "plan", "status", "shutdown", "")
FIELDS = (
    *OWN_FIELDS,
    "request",
    "success",
    "total_steps",
    "metadata",
    "prompt",
    "observation/image",
    "observation/state",
    "collect_latent",
)
LARGEST = 3_000_000


def messages(seed: int, count: int) -> Iterator[bytes | str]:
    """`count` messages that follow from `seed` alone."""
    rng = random.Random(seed)  # noqa: S311
    kinds = (junk, damaged, nested, promising, crowded, texts, wrong_array, wrong_field, wrong_request, odd_image, text)
    for _ in range(count):
        yield rng.choice(kinds)(rng)


def junk(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 7, 100, 5000)))


def text(rng: random.Random) -> str:
    return rng.choice(("", "{}", "\ud7ff" * 100, "a" * 100_000))


def damaged(rng: random.Random) -> bytes:
    """A good message with bytes changed, left out or repeated."""
    data = bytearray(pack(observation(rng.randrange(10), collect_latents=SPEC, episode={"id": f"e{rng.randrange(5)}"})))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(len(data), 400)) if rng.random() < 0.8 else rng.randrange(len(data))
        if rng.random() < 0.6:
            data[at] = rng.randrange(256)
        elif rng.random() < 0.5:
            del data[at : at + rng.randrange(1, 50)]
        else:
            data[at:at] = data[at : at + rng.randrange(1, 50)]
    return bytes(data[: rng.randrange(1, len(data))]) if rng.random() < 0.2 else bytes(data)


def nested(rng: random.Random) -> bytes:
    """Lists and maps in one another."""
    depth = rng.choice((33, 500, 1000, 1023, 1024, 100_000))
    inner = b"\x91" * depth + b"\xc0" if rng.random() < 0.5 else b"\x81\xa1a" * depth + b"\xc0"
    return _entry(rng.choice(FIELDS), inner) if rng.random() < 0.8 else inner


def promising(rng: random.Random) -> bytes:
    """Headers that promise more than there is."""
    header = rng.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")) + struct.pack(
        ">I", rng.choice((70_000, 2**20, 2**32 - 1))
    )
    return _entry(rng.choice(FIELDS), header * rng.choice((1, 30, 1000)))


def crowded(rng: random.Random) -> bytes:
    """A great many small values."""
    count = rng.choice((20_000, 500_000, LARGEST // 3))
    small = rng.choice((b"\x90", b"\x80", b"\xc0", b"\xa2ab", b"\xa0"))
    return _entry(rng.choice(FIELDS), b"\xdd" + struct.pack(">I", count) + small * count)


def texts(rng: random.Random) -> bytes:
    """Lists of texts and bytes, of which numpy would make a table."""
    long = rng.choice(("a" * 60_000, "é" * 20_000, b"a" * 100_000))
    values: Any = [long] + [type(long)()] * rng.choice((10, 5000, 16_000))
    if rng.random() < 0.5:
        values = {rng.choice(("x", "y" * 300)): values}
    return _packed(_some_observation(rng) | {rng.choice(FIELDS): values})


def wrong_array(rng: random.Random) -> bytes:
    """Arrays of other dtypes, shapes and sizes than they say."""
    dtype = rng.choice(
        ("<f4", "|O", "V8", "c16", "<U100000", "S4096", "<M8[s]", "f8", "?", "float99", "<i8,<f4", "é", 7, None)
    )
    shape = rng.choice(([1], [2**40, 2**40], [0, 2**62], [-1], [1] * 33, [], "x", None, [2**63], [100, 100]))
    data = rng.choice((b"", b"\0" * 4, b"\0" * 40_000, "text", None, [1]))
    key = rng.choice((b"__ndarray__", b"__npgeneric__"))
    value = {key: True, b"data": data, b"dtype": dtype, b"shape": shape}
    return _packed(_some_observation(rng) | {rng.choice(FIELDS): rng.choice((value, [value], {"x": value}))})


def wrong_field(rng: random.Random) -> bytes:
    """A good observation with values that some fields do not take."""
    wrong = {rng.choice(FIELDS): _value(rng, 3) for _ in range(rng.randrange(1, 4))}
    return _packed(_some_observation(rng) | wrong)


def wrong_request(rng: random.Random) -> bytes:
    message = {"request": rng.choice(REQUESTS)} | {rng.choice(FIELDS): _value(rng, 3) for _ in range(rng.randrange(3))}
    return _packed({**message, "request": rng.choice(REQUESTS)})


def odd_image(rng: random.Random) -> bytes:
    """Images of any shape and dtype."""
    shape = rng.choice(
        ((1, 900_000, 3), (900_000, 1, 3), (3, 900, 900), (1, 1, 3), (3, 3, 3), (0, 5, 3), (5, 5), (2, 2, 2, 3), ())
    )
    image = np.zeros(shape, rng.choice((np.uint8, np.int8, np.float16, bool)))
    return _packed(_some_observation(rng) | {"observation/image": image})


def _value(rng: random.Random, depth: int) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice((-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1)),
        lambda: rng.choice((0.5, float("nan"), float("inf"), -1e308)), lambda: "a" * rng.choice((0, 1, 97, 4097, 60_000)),
        lambda: rng.choice(("../../etc", "..", "__x", "a.partial", "zarr.json", "e1", "\0\n\u2028", "é" * 50)),
        lambda: rng.randbytes(rng.choice((0, 5, 100_000))),
        lambda: np.zeros(rng.choice((0, 1, 8, 5000)), rng.choice((">f8", "?", "u1"))),
        lambda: np.float64("nan"), lambda: SPEC, lambda: {"id": f"e{rng.randrange(5)}"},
    ]  # fmt: skip
    if depth:
        makers += [
            lambda: [_value(rng, depth - 1) for _ in range(rng.randrange(5))],
            lambda: {
                rng.choice((*FIELDS, "id", "layers", "metadata", "x")): _value(rng, depth - 1)
                for _ in range(rng.randrange(4))
            },
        ]
    return rng.choice(makers)()


def _some_observation(rng: random.Random) -> dict[str, Any]:
    return observation(rng.randrange(10)) if rng.random() < 0.5 else {}


def _packed(message: Any) -> bytes:
    """As `pack`, with what it refuses."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": list(value.shape),
            }
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}

    packed = msgpack.packb(message, default=plain)
    assert packed is not None
    return packed


def _entry(key: str, value: bytes) -> bytes:
    packed = msgpack.packb(key)
    assert packed is not None
    return b"\x81" + packed + value
