"""The three forms of a PyTorch file: a zip archive (since 1.6), the older run of pickles, and a bare pickle.

Of a file only its directory and its pickles are read; where the storages lie is noted as offsets into the file.

- **zip**: `NAME/data.pkl` is the pickle, `NAME/data/KEY` a storage each, none of them compressed.
- **older**: pickles of a magic number, a protocol, the writer's sizes of integers, the content, the keys of the storages;
  then each storage as a number of elements (eight bytes) and its bytes.
- **bare**: one pickle. torch does not write such a file, and it can hold no tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlascope_server.torch_checkpoints import pickles
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.tensors import Storage, rebuild, storage_reader
from vlascope_server.torch_checkpoints.values import shown

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
_SAFETENSORS_HEADER = 100_000_000
"""Bytes; the most that the safetensors package takes."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LARGEST_DIRECTORY = 16 << 20
"""Bytes of a zip's directory; that of a checkpoint with 10,000 tensors is 1 MB."""
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 1


def form_of(path: Path) -> str | None:
    """What a file is by its first bytes, whatever its name ends in: `zip`, `pickle` or `safetensors`; None where it is none."""
    with path.open("rb") as file:
        begins = file.read(9)
    if begins.startswith(ZIP_MAGIC):
        return "zip"
    # eight bytes with the length of the header, which may begin as a pickle does, then the header, which is JSON
    if begins[8:] == b"{" and int.from_bytes(begins[:8], "little") <= _SAFETENSORS_HEADER:
        return "safetensors"
    return "pickle" if begins.startswith(PICKLE_MAGIC) else None


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file whose pickle was read.

    Attributes:
        kind: `torch zip`, `torch legacy` or `pickle`.
        content: what the pickle stands for.
        offsets: key of a storage -> where its bytes begin in the file.
        names: every class or function that the pickle names -> the verdict on it.
        calls: refused name -> the call, as text.
        little_endian: whether numbers lie in the order of bytes of x86 and ARM.
    """

    kind: str
    content: Any
    offsets: Mapping[str, int]
    names: Mapping[str, str]
    calls: Mapping[str, str]
    little_endian: bool = True


def read_archive(path: Path) -> Archive:
    """Reads a file that begins with `ZIP_MAGIC` or `PICKLE_MAGIC`.

    Raises:
        TorchCheckpointError: it is damaged, cut short, or no PyTorch checkpoint.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(len(ZIP_MAGIC))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _read_zip(mapped) if begins == ZIP_MAGIC else _read_pickles(mapped)
    except TorchCheckpointError as error:
        raise TorchCheckpointError(f"{path}: {error}") from None


def bytes_expected(path: Path) -> int | None:
    """How many bytes the storages of a zip have together, read from the pickle at its start, so of a zip without an end too.

    Returns:
        None where the first file in it is no pickle, or not whole.
    """
    with path.open("rb") as file:
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(ZIP_MAGIC):
            return None
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        file.seek(name_length + extra_length, io.SEEK_CUR)
        data = file.read(pickles.LARGEST_PICKLE)
    sizes: dict[str, int] = {}

    def add(key: str, size: int) -> Storage:
        sizes[key] = size
        return Storage(key, size)

    try:
        pickles.read_pickle(data, storage_reader(add), rebuild)
    except TorchCheckpointError:
        return None
    return sum(sizes.values())


class _Window(io.BufferedIOBase):
    """A mapped file for `zipfile`, which refuses to read more at once than any directory is long."""

    def __init__(self, mapped: mmap.mmap):
        self._mapped, self._at = mapped, 0

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, len(self._mapped) - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _LARGEST_DIRECTORY:
            raise TorchCheckpointError(f"a zip whose directory has {wanted:,} bytes: this is damaged")
        found = self._mapped[self._at : self._at + wanted]
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._mapped)}[whence]
        if base + offset < 0:
            raise OSError("before the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _read_zip(mapped: mmap.mmap) -> Archive:
    with contextlib.closing(_open_zip(_Window(mapped))) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise TorchCheckpointError(
                "a TorchScript archive, which holds a program; expected a checkpoint: save the model's state_dict() with"
                " torch.save"
            )
        places = dict(_places(archive, mapped))
    roots = [name.removesuffix("/data.pkl") for name in places if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        what = "several" if roots else "no"
        raise TorchCheckpointError(
            f"a zip with {what} data.pkl, of {len(places)} files such as {min(places, default='none')[:80]}; expected a file"
            " that torch.save wrote"
        )
    root = roots[0]
    offsets: dict[str, int] = {}

    def add(key: str, size: int) -> Storage:
        start, length = places.get(f"{root}/data/{key}", (0, -1))
        if length < size:
            there = "is missing" if length < 0 else f"has {length:,} bytes"
            raise TorchCheckpointError(
                f"storage {key[:80]}: expected {size:,} bytes, and {root}/data/{key[:80]} {there}"
            )
        offsets[key] = start
        return Storage(key, size)

    start, length = places[f"{root}/data.pkl"]
    read = _pickle_at(mapped, start, length, add)
    order, size = places.get(f"{root}/byteorder", (0, 0))
    little = not size or mapped[order : order + min(size, 8)] == b"little"
    return Archive("torch zip", read.value, offsets, read.names, read.calls, little)


def _open_zip(window: _Window) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(window)
    except TorchCheckpointError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError, MemoryError) as error:
        raise TorchCheckpointError(
            f"a zip that is cut short or damaged: {window.seek(0, io.SEEK_END):,} bytes are here, and the directory that torch"
            f" writes at the end is not among them ({' '.join(str(error).split())}): download or copy the file again"
        ) from None


def _places(archive: zipfile.ZipFile, mapped: mmap.mmap) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every file in a zip: its name, where its bytes begin, and how many they are.

    Raises:
        TorchCheckpointError: a name is there twice or would leave the archive, a file is compressed or encrypted, lies
        outside of the zip or on another one.
    """
    end, seen = 0, set()
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.filename
        if name in seen:
            raise TorchCheckpointError(f"a zip that holds {name[:80]} twice: one of them is not what torch wrote")
        seen.add(name)
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise TorchCheckpointError(
                f"a zip with the name {name[:80]!r}, which leaves its own folder: torch writes none"
            )
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & _ENCRYPTED
        ):
            raise TorchCheckpointError(
                f"{name[:80]}: compressed or encrypted, which torch never does; expected a file as torch.save wrote"
                " it: unpack and"
                " save it again"
            )
        header = mapped[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or not header.startswith(ZIP_MAGIC):
            raise TorchCheckpointError(
                f"{name[:80]}: the zip's directory points to where it is not: the file is damaged"
            )
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if info.header_offset < end or start + info.file_size > len(mapped):
            where = "overlaps the one before" if info.header_offset < end else "ends behind the end of the file"
            raise TorchCheckpointError(f"{name[:80]}: {where}: the zip is damaged")
        end = start + info.file_size
        yield name, (start, info.file_size)


def _read_pickles(mapped: mmap.mmap) -> Archive:
    """A file of the older form, or a bare pickle."""
    sizes: dict[str, int] = {}

    def add(key: str, size: int) -> Storage:
        if sizes.setdefault(key, size) != size:
            raise TorchCheckpointError(f"storage {key[:80]}: {sizes[key]:,} and {size:,} bytes: the pickle is damaged")
        return Storage(key, size)

    first = _pickle_at(mapped, 0, len(mapped), add)
    if first.value != _LEGACY_MAGIC:
        return Archive("pickle", first.value, {}, first.names, first.calls)
    names, calls = dict(first.names), dict(first.calls)
    try:
        at, parts = first.end, []
        for _ in range(4):
            part = _pickle_at(mapped, at, len(mapped) - at, add)
            parts.append(part.value)
            names |= part.names
            calls |= part.calls
            at += part.end
        protocol, info, content, keys = parts
        if protocol != _LEGACY_PROTOCOL:
            raise TorchCheckpointError(
                f"an older torch file of protocol {shown(protocol)}; expected {_LEGACY_PROTOCOL}"
            )
        little = not isinstance(info, dict) or info.get("little_endian") is not False
        offsets = _legacy_offsets(mapped, at, keys, sizes, little)
    except TorchCheckpointError as error:
        raise TorchCheckpointError(pickles.with_calls(str(error), calls)) from None
    return Archive("torch legacy", content, offsets, names, calls, little)


def _legacy_offsets(mapped: mmap.mmap, at: int, keys: Any, sizes: Mapping[str, int], little: bool) -> dict[str, int]:
    """Key of a storage -> where its bytes begin, in a file of the older form whose storages begin at byte `at`."""
    offsets: dict[str, int] = {}
    if not isinstance(keys, list):
        raise TorchCheckpointError(f"the keys of the storages: expected a list, found {shown(keys)}")
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise TorchCheckpointError(f"storage {shown(key)}: no tensor lies in it: the file is damaged")
        offsets[key] = at + 8
        elements = int.from_bytes(mapped[at : at + 8], "little" if little else "big")
        at += 8 + sizes[key]
        if at > len(mapped):
            raise TorchCheckpointError(
                f"cut short: storage {key[:80]} ends at byte {at:,}, and the file has {len(mapped):,}: download or"
                " copy it again"
            )
        if elements not in {sizes[key] // size for size in (1, 2, 4, 8, 16)}:
            raise TorchCheckpointError(
                f"storage {key[:80]}: the file says {elements:,} elements, its pickle {sizes[key]:,} bytes"
            )
    if missing := sizes.keys() - offsets.keys():
        raise TorchCheckpointError(f"storage {min(missing)[:80]}: missing from the file, of which a tensor is a part")
    return offsets


def _pickle_at(mapped: mmap.mmap, start: int, length: int, add: Any) -> pickles.Read:
    """One pickle of a file, which is at most `length` bytes long."""
    data = mapped[start : start + min(length, pickles.LARGEST_PICKLE)]
    try:
        return pickles.read_pickle(data, storage_reader(add), rebuild)
    except TorchCheckpointError as error:
        if length > pickles.LARGEST_PICKLE:
            more = f" (of {length:,} bytes, the first {pickles.LARGEST_PICKLE:,} were looked at)"
            raise TorchCheckpointError(f"{error}{more}") from None
        raise
