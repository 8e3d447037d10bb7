"""Recomputes every checksum of a store, and compares what an episode says twice.

Its arrays are compared with the capture spec and the index, its columns with the index, its attributes with the run's table,
and its files with all of these.

A damaged frame is lost: this module only names it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import xxhash
from vlascope_base.text import counted

from vlascope_latents.layout import ModelLayout
from vlascope_latents.plan import plan_capture
from vlascope_latents.spec import CaptureSpecError
from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import DamagedError, StoreError
from vlascope_latents.store.index import FrameLine
from vlascope_latents.store.run_folder import read_run
from vlascope_latents.store.sealing import column_files
from vlascope_latents.store.shard_reader import Part, ShardReader
from vlascope_latents.store.table import EpisodeRow
from vlascope_latents.store.tensors import StoredTensor, stored_tensors


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong; `frame` is None where it is the whole episode."""

    run: str
    episode: str
    frame: int | None
    message: str

    def __str__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"{self.run}, episode {self.episode}{frame}: {self.message}"


def verify(episodes: Iterable[Episode]) -> Iterator[Problem]:
    """Reads every tensor of every committed frame and yields what is wrong."""
    shards = ShardReader()
    layout_of = functools.cache(lambda path: read_run(path).layout)
    for episode in episodes:
        try:
            lines, tensors = episode.lines(), episode.tensors()
            expected = _expected_arrays(episode, layout_of(episode.path))
            wrong = [*_compare_arrays(expected, tensors), *_compare_shards(episode, tensors, lines)]
            wrong += [*_compare_attributes(episode), *_compare_files(episode, tensors, lines)]
        except StoreError as error:
            yield Problem(episode.run, episode.row.folder, None, _said(error))
            continue
        if episode.status != "open" and len(lines) != episode.row.frames:
            wrong.append(f"expected {episode.row.frames} committed frames, found {len(lines)} in the index")
        for message in wrong:
            yield Problem(episode.run, episode.row.folder, None, message)
        for line in lines:
            for message in _check_frame(episode, line, tensors, expected, shards):
                yield Problem(episode.run, episode.row.folder, line.frame, message)


def _expected_arrays(episode: Episode, layout: ModelLayout) -> dict[str, StoredTensor]:
    """The arrays that the episode's capture spec asks for, by path."""
    spec = episode.capture_spec()
    try:
        return {tensor.path: tensor for tensor in stored_tensors(plan_capture(spec, layout), layout)}
    except CaptureSpecError as error:
        file = episode.folder / "zarr.json"
        raise DamagedError(f"{file}: damaged: expected a capture spec that fits the run's layout ({error})") from error


def _compare_arrays(expected: Mapping[str, StoredTensor], found: Mapping[str, StoredTensor]) -> Iterator[str]:
    for path in sorted({*expected, *found}):
        if path not in expected:
            yield f"{path}: the array is not part of the capture spec, which asks for {', '.join(expected)}"
        elif path not in found:
            yield f"{path}: the array is missing"
        else:
            for field in ("dims", "names", "shape", "dtype", "attributes"):
                want, have = getattr(expected[path], field), getattr(found[path], field)
                if have != want:
                    yield f"{path}: {field}: expected {want} by the capture spec, found {have}"


def _compare_shards(episode: Episode, tensors: Mapping[str, StoredTensor], lines: Sequence[FrameLine]) -> Iterator[str]:
    """Of a closed episode: every array is as long as the index, and holds a file for each frame and no other.

    An open one may hold frames on their way, and what a killed writer left.
    """
    if episode.status == "open":
        return
    for path, tensor in tensors.items():
        folder = episode.folder / path
        length = json.loads((folder / "zarr.json").read_bytes())["shape"][0]
        if length != len(lines):
            yield f"{path}: the array has {counted(length, 'frame')}, and the index {len(lines)}"
        committed = {tensor.key(line.frame) for line in lines}
        left = sorted(file.name for file in folder.glob("c.*") if file.name not in committed)
        if left:
            yield f"{path}: {counted(len(left), 'file')} of no committed frame, such as {left[0]}"


def _compare_attributes(episode: Episode) -> Iterator[str]:
    """Of a closed episode: Zarr readers read its group's attributes, and ours the run's table."""
    if episode.status == "open":
        return
    file = episode.folder / "zarr.json"
    try:
        said = EpisodeRow.from_attributes(episode.row.folder, episode.attributes())
    except KeyError as error:
        raise DamagedError(f"{file}: damaged: expected the attributes of an episode, {error} is missing") from error
    for field in dataclasses.fields(EpisodeRow):
        ours, theirs = getattr(episode.row, field.name), getattr(said, field.name)
        if ours != theirs:
            yield f"{field.name}: the table says {ours!r}, and the group's attributes {theirs!r}"


def _compare_files(episode: Episode, tensors: Mapping[str, StoredTensor], lines: Sequence[FrameLine]) -> Iterator[str]:
    """Of a closed episode: its columns are what the index says, and no file belongs to nothing.

    What lies in the folder of a captured array is compared with the index elsewhere.
    """
    if episode.status == "open":
        return
    columns = column_files(lines)
    for group in sorted({path.partition("/")[0] for path in tensors}):
        if not (episode.folder / group / "zarr.json").is_file():
            yield f"{group}/zarr.json: the file is missing"
    for name, content in columns.items():
        file = episode.folder / name
        if not file.is_file():
            yield f"{name}: the file is missing"
        elif file.read_bytes() != content:
            yield f"{name}: is not what the index says"
    known = {"zarr.json", *columns, *(f"{group}/zarr.json" for group in episode.attributes().get("experts", ()))}
    found = (path for path in episode.folder.rglob("*") if path.is_file())
    names = (path.relative_to(episode.folder).as_posix() for path in found)
    left = sorted(name for name in names if name not in known and name.rpartition("/")[0] not in tensors)
    if left:
        yield f"{counted(len(left), 'file')} of no part of the episode, such as {left[0]}"


def _check_frame(
    episode: Episode,
    line: FrameLine,
    tensors: Mapping[str, StoredTensor],
    expected: Mapping[str, StoredTensor],
    shards: ShardReader,
) -> Iterator[str]:
    for path in sorted({*expected, *tensors} - {*line.xxh3}):
        yield f"{path}: the index has no checksum of it"
    for path, checksum in line.xxh3.items():
        if path not in tensors:
            yield f"{path}: the array is missing"
            continue
        tensor = tensors[path]
        content = np.empty(tensor.shape, tensor.storage_dtype)
        try:
            file = episode.folder / path / tensor.key(line.frame)
            shards.read(file, tensor, Part.whole(tensor), content)
            found = xxhash.xxh3_64_hexdigest(content.data)
            if found != checksum:
                raise DamagedError(f"{file}: damaged: expected checksum {checksum}, found {found}")
        except DamagedError as error:
            yield _said(error)


def _said(error: StoreError) -> str:
    """Without the advice to do what is being done."""
    return str(error).removesuffix(": verify the run")
