"""Messages as bytes: msgpack maps that may hold numpy arrays, packed as openpi-client packs them.

An array is a map with the byte-string keys `__ndarray__`, `data` (C order), `dtype` (numpy's string) and `shape`; a numpy
scalar one with `__npgeneric__`, `data` and `dtype`. Nothing here can run code that a peer sent. Knows nothing of what a
message means.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

_KINDS = "biufSU"  # no objects, no void, no complex numbers, no times


class MessageError(ValueError):
    """Bytes that are no message, or a value that cannot travel; the message is one line."""


def pack(message: Any) -> bytes:
    """A message as bytes.

    Raises:
        MessageError: it holds a value that cannot travel, such as an array of objects.
    """
    try:
        return msgpack.packb(message, default=_pack_array)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"message: cannot be packed: {error}") from None


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The message in `data`. Arrays share its memory and are read-only.

    Raises:
        MessageError: it is not msgpack, or an array in it is not what it says.
    """
    try:
        return msgpack.unpackb(data, object_hook=_unpack_array, strict_map_key=True)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MessageError(f"message: expected one msgpack map, found {len(data)} bytes that are none ({what})") from None


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in _KINDS:
            raise MessageError(f"dtype {value.dtype}: cannot travel; expected numbers, booleans or text")
        if isinstance(value, np.ndarray):
            return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot travel; expected maps, lists, text, numbers, booleans and arrays")


def _unpack_array(value: dict) -> Any:
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise MessageError(f"array: expected a shape of whole numbers, found {shape!r}")
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            found = len(data) if isinstance(data, bytes) else type(data).__name__
            raise MessageError(f"array: expected {math.prod(shape) * dtype.itemsize} bytes for {shape} {dtype}, found {found}")
        return np.ndarray(shape, dtype, buffer=data)
    if b"__npgeneric__" in value:
        dtype, data = _dtype(value), value.get(b"data")
        if not isinstance(data, bool | int | float | str | bytes):
            raise MessageError(f"scalar: expected one value of {dtype}, found {type(data).__name__}")
        try:
            return dtype.type(data)
        except (ValueError, TypeError, OverflowError) as error:
            raise MessageError(f"scalar: expected one value of {dtype} ({error})") from None
    return value


def _dtype(value: dict) -> np.dtype:
    name = value.get(b"dtype")
    try:
        if not isinstance(name, str):
            raise TypeError
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        raise MessageError(f"array: expected numpy's name of a dtype such as '<f4', found {name!r}") from None
    if dtype.kind not in _KINDS or dtype.fields is not None or dtype.subdtype is not None or dtype.itemsize == 0:
        raise MessageError(f"array: dtype {name}: expected numbers, booleans or text")
    return dtype
