"""Reads what `vlascope-sim rollout --save-observations` wrote of one episode; sim_eval/README.md documents the format.

A file is a zip archive of arrays without pickles, with a checksum each. Opening one reads its small arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.maps import each_once
from vlascope_latents.store.run_folder import check_name

from vlascope_server.capturing.options import CaptureError, check_prompt
from vlascope_server.capturing.recording import digest
from vlascope_server.robots.arithmetic import held_by_float32

VERSION = 2
_ANNOTATIONS = "annotations/"
_FIELDS: Mapping[str, type] = {
    "robot": str,
    "prompt": str,
    "episode": dict,
    "ended": dict,
    "observation": dict,
    "policy": dict,
}
_ABOUT_BYTES = 4 << 20
_UNREADABLE = (
    ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    RuntimeError, SyntaxError, tokenize.TokenError, MemoryError, OverflowError,
)  # fmt: skip
"""What zipfile and numpy raise where bits have changed; an archive that claims to be encrypted is a RuntimeError."""


@dataclasses.dataclass(frozen=True, eq=False)
class ObservationFile:
    """One episode's file.

    Attributes:
        path: of the file.
        about: what was told and sent beside the observations, and how the episode ended.
        begun: what a policy server keeps of the episode from its beginning.
        timestep: int64 [n], environment step of each inference.
        seed: int64 [n], of its noise.
        captured: bool [n], whether the server was asked to keep hidden states of it.
        shapes: by array that has a row for each inference, shape and dtype of a row.
        content: digest of every array in the file.
    """

    path: Path
    about: Mapping[str, Any]
    begun: Mapping[str, object]
    timestep: np.ndarray
    seed: np.ndarray
    captured: np.ndarray
    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    content: str

    @classmethod
    def open(cls, path: Path) -> ObservationFile:
        """Reads everything but observations and annotations.

        Raises:
            CaptureError: it is no such file, of another version, damaged or cut short.
        """
        with _reading(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(infos) < len(archive.infolist()):
                raise ValueError("an array is there twice")
            _check_version(path, archive, set(infos))
            if infos["about"].file_size > _ABOUT_BYTES:
                raise ValueError(f"about: {infos['about'].file_size} bytes; expected at most {_ABOUT_BYTES}")
            about = json.loads(
                str(_read(archive, "about")), object_pairs_hook=each_once, parse_constant=_refuse_constant
            )
            _check_about(about)
            check_prompt(f"{path}: prompt", about["prompt"])
            begun = _said(about)
            columns = {name: _read(archive, name) for name in ("timestep", "seed", "captured")}
            count = len(columns["timestep"])
            for name, kind in (("timestep", "i"), ("seed", "i"), ("captured", "b")):
                if columns[name].shape != (count,) or columns[name].dtype.kind != kind:
                    raise ValueError(
                        f"{name}: expected {count} values, found {columns[name].dtype} {columns[name].shape}"
                    )
            if not count or columns["seed"].min() < 0 or columns["timestep"].min() < 0:
                raise ValueError("expected at least one inference, and no negative timestep or seed")
            if (np.diff(columns["timestep"]) <= 0).any():
                raise ValueError("timestep: expected each to be later than the one before")
            rows = [*about["observation"], *(name for name in infos if name.startswith(_ANNOTATIONS))]
            shapes = {}
            for name in rows:
                shape, dtype = _header(archive, name)
                if shape[:1] != (count,) or dtype.kind not in "biuf":
                    raise ValueError(f"{name}: expected numbers of {count} inferences, found {dtype} {shape}")
                shapes[name] = (shape[1:], dtype.str)
            _check_annotations(
                {n.removeprefix(_ANNOTATIONS): s for n, (s, _) in shapes.items() if n.startswith(_ANNOTATIONS)}
            )
            _check_arrays(archive, about, set(infos))
            content = digest([[name, infos[name].CRC, infos[name].file_size] for name in sorted(infos)])
        return cls(path, about, begun, columns["timestep"], columns["seed"], columns["captured"], shapes, content)

    @property
    def nbytes(self) -> int:
        """Bytes of observations and annotations in memory."""
        rows = (math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.shapes.values())
        return len(self.timestep) * sum(rows)

    def read(self) -> dict[str, np.ndarray]:
        """Observations and annotations by name of the array, a row each inference; every byte is compared with its checksum.

        Raises:
            CaptureError: the file is damaged, was replaced since it was opened, or an observation is no finite number.
        """
        with _reading(self.path) as archive:
            arrays = {name: _read(archive, name) for name in self.shapes}
            for name, array in arrays.items():
                if (array.shape[1:], array.dtype.str) != self.shapes[name]:
                    raise ValueError("it was replaced while it was read")
                if name in self.keys() and not held_by_float32(array).all():
                    raise ValueError(f"{name}: holds a value that is no finite number in float32")
                if not (held_by_float32(array) | ~np.isfinite(array)).all():
                    raise ValueError(f"{name}: holds a number that float32 cannot hold")
        return arrays

    def keys(self) -> Mapping[str, str]:
        """Array -> the key under which the policy was sent it."""
        return self.about["observation"]

    def annotations(self) -> Sequence[str]:
        """Names of the annotations; the array of each is called `annotations/<name>`."""
        return [name.removeprefix(_ANNOTATIONS) for name in self.shapes if name.startswith(_ANNOTATIONS)]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open; whatever is wrong with it is one line that names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except CaptureError:
        raise
    except OSError as error:
        raise CaptureError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _UNREADABLE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise CaptureError(
            f"{path}: damaged or cut short: expected saved observations ({what}); move it away to capture the other episodes,"
            " or run the rollout again"
        ) from error


def _check_version(path: Path, archive: zipfile.ZipFile, names: set[str]) -> None:
    if "version" not in names and {"timestep", "image"} <= names:
        raise CaptureError(
            f"{path}: is of an older vlascope, and holds neither prompts nor seeds, without which nothing can be captured of"
            " it: run the rollout again with --save-observations"
        )
    version = _read(archive, "version")
    if version.shape or version.dtype.kind != "i":
        raise ValueError(f"version: expected a whole number, found {version.dtype} {version.shape}")
    if version != VERSION:
        raise CaptureError(
            f"{path}: has version {version} of its format, and this vlascope reads {VERSION}: "
            + (
                "upgrade vlascope"
                if version > VERSION
                else "an older one made it; run the campaign again with --save-observations"
            )
        )


def _check_about(about: Any) -> None:
    if not isinstance(about, dict):
        raise ValueError("about: expected a map")
    for name, kind in _FIELDS.items():
        if not isinstance(about.get(name), kind):
            raise ValueError(f"about: {name}: expected {kind.__name__}, found {type(about.get(name)).__name__}")
    if not isinstance(about["episode"].get("id"), str):
        raise ValueError("about: episode: expected an id")
    for name, kind in (("success", bool), ("total_steps", int), ("metadata", dict)):
        if not isinstance(about["ended"].get(name), kind | None):
            raise ValueError(f"about: ended: {name}: expected {kind.__name__}")
    if not about["observation"] or not all(isinstance(key, str) for key in about["observation"].values()):
        raise ValueError("about: observation: expected the key of each array")


def _check_arrays(archive: zipfile.ZipFile, about: Mapping[str, Any], names: set[str]) -> None:
    """The directory of a zip archive has no checksum: a name that is damaged there is an array that is not there."""
    if "arrays" not in about:
        return  # the list came after the first files of this version
    said: Mapping[str, Any] = about["arrays"]
    if differing := sorted(names.symmetric_difference({*said, "about"})):
        raise ValueError(f"{differing[0]}: is {'missing' if differing[0] in said else 'not in the list of arrays'}")
    for name, (dtype, shape) in said.items():
        found = _header(archive, name)
        if (found[1].str, list(found[0])) != (dtype, shape):
            raise ValueError(f"{name}: expected {dtype} {shape}, found {found[1].str} {list(found[0])}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"about: expected finite numbers, found {name}")


def _said(about: Mapping[str, Any]) -> Mapping[str, object]:
    """What a policy server keeps of the episode's beginning; the same checks as when it was sent there.

    Needs the extra `serve`.
    """
    from vlascope_client.codec import MessageError, pack

    from vlascope_server.serving.errors import RequestError
    from vlascope_server.serving.messages import BeginEpisode, read_request

    try:
        begin = read_request(pack({"request": "begin_episode", "episode": about["episode"]}))
        read_request(pack({"request": "end_episode", "episode": about["episode"]["id"], **about["ended"]}))
    except (RequestError, MessageError) as error:
        raise ValueError(f"about: {error}") from None
    assert isinstance(begin, BeginEpisode)  # noqa: S101 as it was packed
    return begin.episode.metadata


def _check_annotations(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The checks of a policy server: names, and how many numbers. Needs the extra `serve`."""
    from vlascope_server.serving.messages import ANNOTATION_NUMBERS, ANNOTATIONS

    for name in shapes:
        check_name("annotation", name)
    count = sum(map(math.prod, shapes.values()))
    if len(shapes) > ANNOTATIONS or count > ANNOTATION_NUMBERS:
        raise ValueError(
            f"annotations: {len(shapes)} names with {count} numbers; expected at most {ANNOTATIONS} and {ANNOTATION_NUMBERS}"
        )


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array; memory is taken for as many bytes as the archive says that it has."""
    shape, dtype = _header(archive, name)
    if math.prod(shape) * dtype.itemsize > archive.getinfo(f"{name}.npy").file_size:
        raise ValueError(f"{name}: {dtype} {list(shape)} does not fit its bytes")
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, of which no values are read."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype
