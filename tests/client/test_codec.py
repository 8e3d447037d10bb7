from __future__ import annotations

import sys
import tracemalloc

import msgpack
import numpy as np
import pytest
from vlascope_client.codec import MessageError, pack, unpack

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.5, np.float32),
    np.zeros((0, 7), np.float32),
    np.array([True, False]),
    np.array([1, 2], ">i8"),
    np.array([0.5, -2], np.float16),
    np.array(["ja", "nein"]),
    np.array([b"a", b"bc"]),
    np.array([2**64 - 1], np.uint64),
]
SCALARS = [np.float32(0.1), np.float16(2), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)]


def reference_pack(message: object) -> bytes:
    """As openpi-client 0.1.2 documents its bytes: written out by hand."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value).tobytes()
            shape = list(value.shape)
            return {b"__ndarray__": True, b"data": data, b"dtype": value.dtype.str, b"shape": shape}
        if isinstance(value, np.generic) and not isinstance(value, float):
            return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
        return value

    packed = msgpack.packb(plain(message))
    assert packed is not None
    return packed


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays(array: np.ndarray) -> None:
    message = {"a": array, "nested": {"list": [1, None, "x", 2.5, True]}}
    back = unpack(pack(message))
    np.testing.assert_array_equal(back["a"], array)
    assert (back["a"].dtype, back["a"].shape) == (array.dtype, array.shape)
    assert not back["a"].flags.writeable
    assert back["nested"] == message["nested"]
    assert pack(message) == reference_pack(message)


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: str(s.dtype))
def test_scalars(scalar: np.generic) -> None:
    back = unpack(pack({"s": scalar}))["s"]
    assert (back, back.dtype) == (scalar, scalar.dtype)
    assert pack({"s": scalar}) == reference_pack({"s": scalar})


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]), np.array([1j]), np.zeros(1, "V4"), np.zeros(1, "f4,f4"), np.datetime64("2020"), {1}, len, 2**64,
        *([np.longdouble(1)] if np.longdouble(1).dtype.itemsize > 8 else []),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_travel(value: object) -> None:
    with pytest.raises(MessageError, match="cannot"):
        pack({"v": value})


def array(dtype: object = "<f4", shape: object = (1,), data: object = b"\0\0\0\0") -> dict:
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


def scalar(dtype: object, data: object) -> dict:
    return {b"__npgeneric__": True, b"data": data, b"dtype": dtype}


@pytest.mark.parametrize(
    "value",
    [
        array("|O"), array("O"), array("V4"), array("f4,f4"), array("(2,)f2"), array("c8"), array("M8[s]"), array("U0"),
        array("S0"), array("f4" * 40), array(""), array(None), array(7), array("{'names': ['a'], 'formats': ['O']}"),
        array("f99999999999"), array("a4"), array("i3"), array("f4\n"), array("f４"),
        array("S2147483647"), array("é"), array("\0"),
        array(shape=(2,)), array(shape=(-1,)), array(shape=(-1, -1)), array(shape="1"), array(shape=None), array(shape=(1.0,)),
        array(shape=(True,)), array(shape=[[1]]), array(shape=(2**62, 4)), array(shape=(2**63, 0), data=b""),
        array(shape=(0, 2**62), data=b""), array(shape=(1,) * 33), array(shape=(2**63,) * 200_000),
        array(data="\0\0\0\0"), array(data=None), array(data=[0]), {b"__ndarray__": True}, {b"__npgeneric__": True},
        scalar("S1", 10**12), scalar("S", 5), scalar("U8", 10**9), scalar("<f4", "1.5"), scalar("<f4", [1]), scalar("i1", 300),
        scalar("i4", True), scalar("?", 2), scalar("O", 1), scalar("<M8[s]", 5), scalar("<i8", 2**63),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_hostile_arrays(value: dict) -> None:
    data = msgpack.packb({"v": value})
    tracemalloc.start()
    try:
        with pytest.raises(MessageError) as caught:
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * len(data) + 1_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x81\xa1a", b"\x80\x80", b"\x81\xa1a\xa1\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000, b"\x81\xa1a" * 100_000, b"\x81\x01\x02", b"\x81\x91\x01\x02",
        b"\x81\x80\x02", b"\x81\xc0\x02", b"\xd4\x05\x00", b"\x81\xa1a\xc7\x00\x2a", b"\xd9\x02\xc3\x28",
        b"\xdd\x00\x01\x86\xa0" * 20_000,
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(MessageError, match=r"^message: "):
        unpack(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa1a\x01\xa1a\x02", b"\x81\xa1m\x82\xa1a\x01\xa1a\x01", b"\x82\xc4\x01a\x01\xc4\x01a\x02",
        b"\xde\x1f\xff" + b"".join(pack(f"k{n}") + b"\x01" for n in range(8190)) + b"\xa2k0\x01",
    ],
    ids=["twice", "inner", "bytes", "many"],
)  # fmt: skip
def test_a_key_that_is_there_twice_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError, match=r"^message: key b?'(a|k0)': is given twice in one map; expected once$"):
        unpack(data)


def test_any_bytes_are_a_message_or_an_error() -> None:
    rng = np.random.default_rng(0)
    good = pack({"a": np.arange(6.0).reshape(2, 3), "s": np.float32(1), "n": {"b": [1, "x", None]}})
    outcomes = set()
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            unpack(bytes(data))
            outcomes.add("message")
        except MessageError:
            outcomes.add("error")
    assert outcomes == {"message", "error"}


def test_no_pickle_is_imported() -> None:
    module = sys.modules["vlascope_client.codec"]
    assert not {"pickle", "marshal", "cloudpickle"} & set(vars(module))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("value", [np.zeros((2, 3), np.float32), np.float64(1.5)], ids=["array", "scalar"])
def test_the_dialect_of_msgpack_numpy_is_named(value: np.ndarray | np.generic, binary: bool) -> None:
    """As msgpack-numpy 0.4.8 encodes: written out by hand."""
    keys = ("nd", "type", "kind", "shape", "data") if isinstance(value, np.ndarray) else ("nd", "type", "data")
    fields = {
        "nd": isinstance(value, np.ndarray),
        "type": value.dtype.str,
        "kind": b"",
        "shape": value.shape,
        "data": value.tobytes(),
    }
    packed = msgpack.packb({"state": {(key.encode() if binary else key): fields[key] for key in keys}})
    assert packed is not None
    with pytest.raises(MessageError) as error:
        unpack(packed)
    assert str(error.value).startswith(
        "array: packed by msgpack-numpy (keys b'nd' and b'type'); expected openpi-client's keys"
    )
    assert "openpi_client.msgpack_numpy" in str(error.value)
    assert "\n" not in str(error.value)
