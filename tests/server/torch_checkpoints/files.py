"""Writes torch's zip files without torch: tensors of any size as holes in sparse files, and pickles that torch never writes."""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORAGES = {"float32": ("FloatStorage", 4), "bfloat16": ("BFloat16Storage", 2), "int64": ("LongStorage", 8)}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle refers to it; strides are those of a contiguous one, and the storage is as long, unless given."""

    key: Any
    shape: Any
    dtype: str = "float32"
    strides: Any = None
    offset: Any = 0
    stored: Any = None

    @property
    def size(self) -> int:
        elements = math.prod(self.shape) if self.stored is None else self.stored
        return elements * STORAGES[self.dtype][1]


@dataclasses.dataclass(frozen=True)
class Raw:
    """Instructions of a pickle as they are."""

    code: bytes


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + _code(value) + b"."


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _code(value: Any) -> bytes:
    match value:
        case Raw():
            return value.code
        case Tensor():
            strides = value.strides
            if strides is None:
                strides = tuple(math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape)))
            stored = math.prod(value.shape) if value.stored is None else value.stored
            kind = Raw(named("torch", STORAGES[value.dtype][0]))
            reference = _code(("storage", kind, value.key, "cpu", stored)) + b"Q"
            args = (Raw(reference), value.offset, value.shape, strides, False, Raw(b"}"))
            return named("torch._utils", "_rebuild_tensor_v2") + _code(args) + b"R"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            return (
                b"\x8a" + bytes([len(data)]) + data
                if len(data) < 256
                else b"\x8b" + struct.pack("<i", len(data)) + data
            )
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_code(key) + _code(item) for key, item in value.items()) + b"u"
    raise TypeError(type(value))


def write_zip(path: Path, files: Mapping[str, bytes | int] | list[tuple[str, bytes | int]], **changes: Any) -> Path:
    """A zip with entries as they are: bytes, or a number of bytes that are a hole in the file.

    Args:
        path: the file.
        files: name -> content.
        changes: `method` and `flags` of every entry; `offsets`: name -> where the directory says that it is.
    """
    entries = list(files.items() if isinstance(files, Mapping) else files)
    method, flags, directory = changes.get("method", 0), changes.get("flags", 0), b""
    with path.open("wb") as file:
        for name, content in entries:
            start, data = file.tell(), content if isinstance(content, bytes) else b""
            size = len(data) if isinstance(content, bytes) else content
            wide = struct.pack("<HHQQ", 1, 16, size, size)
            head = (flags, method, 0, 33, zlib.crc32(data), 0xFFFFFFFF, 0xFFFFFFFF, len(name.encode()))
            file.write(struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 45, *head, len(wide)) + name.encode() + wide + data)
            if not isinstance(content, bytes):
                file.seek(size, 1)
            at = changes.get("offsets", {}).get(name, start)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, at)
            row = (*head, len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
            directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 45, 45, *row) + name.encode() + extra
        start, count = file.tell(), len(entries)
        file.write(directory)
        record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), start)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1)
        few = min(count, 0xFFFF)
        file.write(
            record + locator + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, len(directory), 0xFFFFFFFF, 0)
        )
    return path


def write_checkpoint(path: Path, content: Any, *, code: bytes | None = None) -> Path:
    """A checkpoint as torch.save lays it out, whose storages are holes: all values are zero."""
    files: dict[str, bytes | int] = {
        "archive/data.pkl": pickled(content) if code is None else code,
        "archive/byteorder": b"little",
    }
    for tensor in _tensors(content):
        files[f"archive/data/{tensor.key}"] = tensor.size
    return write_zip(path, files)


def _tensors(value: Any):
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)
