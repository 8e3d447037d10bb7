"""Messages as bytes: msgpack maps that may hold numpy arrays, packed as openpi-client packs them.

An array is a map with the byte-string keys `__ndarray__`, `data` (C order), `dtype` (numpy's string) and `shape`; a numpy
scalar one with `__npgeneric__`, `data` and `dtype`. Nothing here runs code that a peer sent, or takes more memory than a
message has bytes and a few megabytes beside them. Knows nothing of what a message means.
"""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

import msgpack
import numpy as np

from vlascope_client.bounds import excess
from vlascope_client.wording import short

_KINDS = "biufSU"  # no objects, no void, no complex numbers, no times
_AXES = 32  # numpy 1 has no more; a longer shape would only cost time to multiply
_DTYPE = re.compile(r"[<>|=]?[biufSUOVcmM?][0-9]{0,6}|bool|u?int[0-9]{1,2}|float[0-9]{1,3}")
"""numpy's names of dtypes; it reads far more than that as one, records and deprecated letters among them."""
_OTHER_DIALECT = ({b"nd", b"type", b"data"}, {"nd", "type", "data"})
"""Keys of an array or scalar as the package msgpack-numpy packs it, with and without msgpack's `use_bin_type`."""
_SCALARS: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "S": (bytes,), "U": (str,)
}  # fmt: skip


class MessageError(ValueError):
    """Bytes that are no message, or a value that cannot travel; the message is one line."""


def pack(message: Any) -> bytes:
    """A message as bytes. Arrays keep their dtype, whatever their memory layout; nothing of `message` is changed.

    Raises:
        MessageError: it holds a value that cannot travel, such as an array of objects.
    """
    try:
        packed: Any = msgpack.packb(message, default=_pack_array)
    except MessageError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"message: cannot be packed: {error}") from None
    return packed


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The message in `data`. Its arrays are read-only.

    Raises:
        MessageError: it is not msgpack, exceeds the bounds of `bounds.py`, a key is in a map twice, or an array in it is not
            what it says.
    """
    if (what := excess(data)) is not None:
        raise MessageError(f"message: {what}")
    try:
        return msgpack.unpackb(data, object_pairs_hook=_unpack_map, ext_hook=_refuse_extension, strict_map_key=True)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.exceptions.UnpackException) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MessageError(
            f"message: expected one msgpack map, found {len(data)} bytes that are none ({what})"
        ) from None


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in _KINDS:
            raise MessageError(f"dtype {value.dtype}: cannot travel; expected numbers, booleans or text")
        if isinstance(value, np.ndarray):
            return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        if value.dtype.char == "g":  # longdouble: its `item` is a longdouble again
            raise MessageError(f"scalar of {value.dtype}: cannot travel; expected float64 or narrower")
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot travel; expected maps, lists, text, numbers, booleans and arrays")


def _unpack_map(pairs: list[tuple[Any, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[Any] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise MessageError(f"message: key {short(twice)}: is given twice in one map; expected once")
    return _unpack_array(value)


def _unpack_array(value: dict) -> Any:
    if any(keys <= value.keys() for keys in _OTHER_DIALECT):
        raise MessageError(
            "array: packed by msgpack-numpy (keys b'nd' and b'type'); expected openpi-client's keys b'__ndarray__', b'dtype',"
            " b'shape' and b'data': pack with vlascope_client.codec.pack or openpi_client.msgpack_numpy.packb"
        )
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if (
            not isinstance(shape, list)
            or len(shape) > _AXES
            or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
        ):
            raise MessageError(f"array: expected a shape of up to {_AXES} whole numbers, found {short(shape)}")
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            found = len(data) if isinstance(data, bytes) else type(data).__name__
            expected = math.prod(shape) * dtype.itemsize
            raise MessageError(f"array: expected {expected} bytes for {short(shape)} {dtype}, found {found}")
        return np.ndarray(shape, dtype, buffer=data)
    if b"__npgeneric__" in value:
        dtype = _dtype(value)
        data: Any = value.get(b"data")
        # by type, and not whatever numpy would convert: `np.bytes_(10**12)` is a terabyte of zeros
        if type(data) not in _SCALARS[dtype.kind]:
            raise MessageError(f"scalar: expected one value of {dtype}, found {type(data).__name__}")
        if dtype.kind in "iu" and not np.iinfo(dtype).min <= data <= np.iinfo(dtype).max:  # numpy 1 would wrap it
            raise MessageError(f"scalar: expected one value of {dtype}, found {data}")
        try:
            with np.errstate(over="ignore"):
                return dtype.type(data)
        except (ValueError, TypeError, OverflowError) as error:
            raise MessageError(f"scalar: expected one value of {dtype} ({error})") from None
    return value


def _dtype(value: dict) -> np.dtype:
    name = value.get(b"dtype")
    try:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise TypeError
        dtype = np.dtype(name)
    except (TypeError, ValueError):
        raise MessageError(f"array: expected numpy's name of a dtype such as '<f4', found {short(name)}") from None
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise MessageError(f"array: dtype {name}: expected numbers, booleans or text")
    return dtype


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise MessageError(f"message: msgpack extension {code}: expected maps, lists, text, numbers, booleans and arrays")
