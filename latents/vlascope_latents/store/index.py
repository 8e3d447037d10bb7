"""The list of committed frames: one line of JSON a frame, appended and synced; the line is the commit."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.files import sync, sync_data, write_all

from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.run_folder import check_name

DECODED = "decode_steps"
"""The value that says of each expert with a loop `decode` how many of its padded steps are real."""


@dataclasses.dataclass(frozen=True)
class FrameLine:
    """One committed frame.

    Attributes:
        frame: number within the episode, from 0.
        timestep: environment step.
        nbytes: bytes of its tensors, uncompressed.
        xxh3: by tensor path, XXH3-64 of the tensor's bytes as 16 hex digits.
        dropped: frames of the episode dropped before this one.
        values: by name, the small arrays of this frame, as they stand in the file.
    """

    frame: int
    timestep: int
    nbytes: int
    xxh3: Mapping[str, str]
    dropped: int
    values: Mapping[str, Any]

    def encode(self) -> bytes:
        """The line, with its newline."""
        fields = {"frame": self.frame, "timestep": self.timestep, "bytes": self.nbytes, "xxh3": dict(self.xxh3),
                  "dropped": self.dropped, "values": dict(self.values)}  # fmt: skip
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> FrameLine:
        """Reads a line; ValueError, KeyError or TypeError where it is none."""
        fields = json.loads(line)
        return cls(
            fields["frame"], fields["timestep"], fields["bytes"], fields["xxh3"], fields["dropped"], fields["values"]
        )


class IndexWriter:
    """Appends to one index file; each `append` returns when its lines are on disk."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._length = 0
        try:
            sync(path.parent)
        except OSError:
            os.close(self._descriptor)
            os.unlink(path)
            raise

    def append(self, lines: list[FrameLine]) -> None:
        """Commits frames.

        Raises:
            OSError: none of them is committed.
        """
        content = b"".join(line.encode() for line in lines)
        try:
            write_all(self._descriptor, content)
            sync_data(self._descriptor)
        except OSError:
            # half a line must not become a whole one with the next append
            os.ftruncate(self._descriptor, self._length)
            os.lseek(self._descriptor, self._length, os.SEEK_SET)
            raise
        self._length += len(content)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def read_index(path: Path) -> tuple[list[FrameLine], int]:
    """The committed frames of an index file, and the bytes that they take: what follows is torn.

    A missing file is an episode without frames.

    Raises:
        StoreError: a line before the last is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise StoreError(f"{path}: cannot read the index ({error.strerror})") from error
    lines: list[FrameLine] = []
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        try:
            line = FrameLine.decode(content[start:end])
            if line.frame != len(lines):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            if content.find(b"\n", end + 1) < 0:
                break
            raise StoreError(
                f"{path}: line {len(lines) + 1} is damaged: expected frame {len(lines)} as JSON"
            ) from error
        lines.append(line)
        start = end + 1
    return lines, start


def encode_values(values: Mapping[str, object] | None, experts: Collection[str]) -> dict[str, Any]:
    """Small values of a frame as the index keeps them; a map inside (`annotations`) becomes `annotations/<name>`.

    Raises:
        StoreError: a name or a type that cannot be stored.
    """
    encoded: dict[str, Any] = {}
    for name, value in (values or {}).items():
        check_name("value", name)
        if name == "timestep" or name in experts:
            raise StoreError(f"value: {name!r} is the store's own name: choose another")
        if isinstance(value, Mapping):
            for inner, item in value.items():
                check_name(f"value {name}", inner)
                encoded[f"{name}/{inner}"] = _encode(f"{name}/{inner}", item)
        else:
            encoded[name] = _encode(name, value)
    return encoded


def decode_value(value: Mapping[str, Any]) -> np.ndarray:
    """The inverse of what `encode_values` does to one value."""
    return np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["dtype"])).reshape(value["shape"])


def _encode(name: str, value: object) -> dict[str, Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise StoreError(f"value {name}: expected numbers in a regular array, got {type(value).__name__}") from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise StoreError(f"value {name}: expected numbers or booleans, got {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}
