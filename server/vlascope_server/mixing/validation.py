"""Validation data: frames of a dataset as the training transforms make them, in one file, with what they were made from.

The file is a Zarr v3 group in a zip archive, which, unlike a pickle, runs no program when it is opened. N frames, A action
horizon, a the model's width of state and actions, n text tokens, S the image's side in pixels:

| array | dtype, shape | |
| --- | --- | --- |
| `images/<camera>` | uint8 [N S S 3] | resized; one chunk a frame |
| `state` | float32 [N a] | normalised, padded with zeros |
| `prompt`, `prompt_mask` | int32, bool [N n] | token numbers, and which are no padding |
| `actions`, `mask` | float32 [N A a], bool [N A] | normalised and padded; which of them count |
| `episode`, `frame` | int64 [N] | where in the dataset |
| `part` | int8 [N] | place in `facts.PARTS` |

The group's attributes are `format`, `schema` and the fields of `ValidationFacts`.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int, UInt8
from vlascope_base.files import replacing
from zarr.storage import ZipStore

from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.facts import PARTS, Part, ValidationFacts
from vlascope_server.model import ModelInputs, Pi0Config
from vlascope_server.training.loader import Batch

__all__ = ["Part", "ValidationData", "ValidationFacts", "write_validation_data"]

FORMAT, SCHEMA = "vlascope validation data", 1
_COMMAND = "vlascope-server dump-data --dataset DIR --checkpoint CHECKPOINT --output FILE.zarr.zip"
_PICKLES = ".pkl", ".pickle"
_NUMBERS = "state", "prompt", "prompt_mask", "actions", "mask", "episode", "frame", "part"
"""The arrays that are kept in memory."""
_DAMAGE = (
    ValueError, KeyError, RuntimeError, TypeError, IndexError, NotImplementedError, EOFError, OSError, zipfile.BadZipFile,
)  # fmt: skip
"""What zipfile, Zarr and its codecs raise where bytes are not what they should be."""


class ValidationData:
    """A file that is open. Images are read when a batch wants them; all else is in memory. Any thread may ask for a batch.

    Attributes:
        path: the file.
        facts: its attributes.
        episode, frame: where in the dataset each frame is.
    """

    def __init__(
        self, path: Path, facts: ValidationFacts, numbers: Mapping[str, np.ndarray], images: Mapping[str, Any]
    ):
        """For `open`."""
        self.path, self.facts = path, facts
        self._numbers, self._images = numbers, images
        self.episode: Int[np.ndarray, " N"] = numbers["episode"]
        self.frame: Int[np.ndarray, " N"] = numbers["frame"]

    def __len__(self) -> int:
        """Frames."""
        return len(self.episode)

    @classmethod
    def open(cls, path: str | Path) -> ValidationData:
        """Opens a file, and reads all of it once to see that it is whole.

        Raises:
            MixingError: it is missing, cut short, damaged, of another schema, or no such file; one line that names it and the
                command that makes one.
        """
        path = Path(path)
        _refuse_others(path)
        with _damage_said(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged}: its checksum does not fit")
            store = ZipStore(path, mode="r")
            try:
                group = zarr.open_group(store, mode="r", zarr_format=3)
            except FileNotFoundError:
                raise _not_ours(path, "a zip archive without a Zarr group") from None
            attributes = group.attrs.asdict()
            if attributes.get("format") != FORMAT:
                raise _not_ours(path, "a Zarr group of something else")
            if attributes.get("schema") != SCHEMA:
                raise MixingError(
                    f"{path}: schema {attributes.get('schema')!r}: this version reads {SCHEMA}; make the file anew with"
                    f" {_COMMAND}"
                )
            facts = ValidationFacts.read(path, attributes)
            arrays = {name: array for name in (*_NUMBERS, *_image_names(facts)) if (array := _array(group, name))}
            _check_arrays(path, facts, arrays)
            numbers = {name: np.asarray(arrays[name][...]) for name in _NUMBERS}
        _check_parts(path, facts, numbers)
        return cls(path, facts, numbers, {camera: arrays[f"images/{camera}"] for camera in facts.cameras})

    def rows(self, part: Part) -> Int[np.ndarray, " n"]:
        """The rows of one part, for `batch`."""
        return np.flatnonzero(self._numbers["part"] == PARTS.index(part))

    def batch(self, rows: Int[np.ndarray, " n"], size: int) -> Batch:
        """A batch of numpy arrays, as `training.loader.Batches.make` makes it of the same frames.

        Args:
            rows: of the file, at least one and at most `size`.
            size: of the batch; the first row fills what is left, its actions masked.

        Raises:
            MixingError: the file was damaged since it was opened.
        """
        if not 0 < len(rows) <= size:
            raise ValueError(f"rows: expected 1 to {size} for a batch of {size}, found {len(rows)}")
        used = np.concatenate([rows, np.full(size - len(rows), rows[0])])
        state, prompt, prompt_mask, actions, mask = (self._numbers[name][used] for name in _NUMBERS[:5])
        mask[len(rows) :] = False
        fields: dict[str, Any] = {
            "images": {camera: self._gather(camera, used) for camera in self.facts.cameras},
            "image_masks": {camera: np.ones(size, bool) for camera in self.facts.cameras},
            "state": state,
            "prompt": prompt,
            "prompt_mask": prompt_mask,
        }
        rest: Any = actions, mask, np.full((size, 1, len(self.facts.cameras), 2), -1, np.float32)
        return Batch(ModelInputs(**fields), *rest)

    def check_fits(self, config: Pi0Config, where: str) -> None:
        """Whether a policy can read the file. Its prompts may be shorter than the policy's room for text.

        Args:
            config: the policy's architecture.
            where: the checkpoint, as the message names it.

        Raises:
            MixingError: it cannot; names what differs, and both values.
        """
        self.facts.check_fits(config, self.path, where)

    def _gather(self, camera: str, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n S S 3"]:
        with _damage_said(self.path):
            images = {row: np.asarray(self._images[camera][row]) for row in set(rows.tolist())}
        return np.stack([images[row] for row in rows.tolist()])


def write_validation_data(
    path: Path,
    facts: ValidationFacts,
    part: Int[np.ndarray, " N"],
    episode: Int[np.ndarray, " N"],
    frame: Int[np.ndarray, " N"],
    batches: Iterable[Batch],
) -> None:
    """Writes a file, whole or not at all; an existing one is replaced. One batch at a time is in memory, but for small arrays.

    Args:
        path: of the file, in a folder that exists.
        facts: its attributes.
        part: place in `PARTS` of each frame.
        episode, frame: where in the dataset each is.
        batches: of N frames in all, in the same order; of numpy arrays, without rows that only fill.

    Raises:
        OSError: it could not be written.
    """
    count = len(part)
    with replacing(path) as partial, ZipStore(partial, mode="w") as store:
        group = zarr.create_group(
            store, zarr_format=3, attributes={"format": FORMAT, "schema": SCHEMA, **facts.attributes()}
        )
        group.create_group("images")
        shape = facts.image_size, facts.image_size, 3
        images = {
            camera: group.create_array(
                f"images/{camera}", shape=(count, *shape), chunks=(1, *shape), dtype="uint8",
                dimension_names=("frame", "row", "column", "channel"),
            )
            for camera in facts.cameras
        }  # fmt: skip
        kept: dict[str, list[np.ndarray]] = {name: [] for name in _NUMBERS[:5]}
        done = 0
        for batch in batches:
            inputs, size = batch.inputs, len(batch.actions)
            for camera, array in images.items():
                array[done : done + size] = np.asarray(inputs.images[camera])
            for name, values in zip(
                kept, (inputs.state, inputs.prompt, inputs.prompt_mask, batch.actions, batch.mask), strict=True
            ):
                kept[name].append(np.asarray(values))
            done += size
        if done != count:
            raise ValueError(f"batches: expected {count} frames, found {done}")
        numbers = {name: np.concatenate(values) for name, values in kept.items()}
        numbers |= {"episode": episode.astype(np.int64), "frame": frame.astype(np.int64), "part": part.astype(np.int8)}
        for name, values in numbers.items():
            group.create_array(name, data=values, chunks=values.shape)


def _refuse_others(path: Path) -> None:
    """Refuses what cannot be validation data by its name or its first bytes; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise MixingError(f"{path}: no such file; make validation data with {_COMMAND}") from None
    except OSError as error:
        raise MixingError(f"{path}: cannot be read: {error.strerror or error}; expected a file of {_COMMAND}") from None
    # protocols 2 and later begin with this byte
    if path.suffix.lower() in _PICKLES or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        raise MixingError(
            f"{path}: is a pickle, and opening one runs whatever program is in it; make validation data with {_COMMAND}"
        )
    if start[:2] != b"PK":
        raise _not_ours(path, "no zip archive")


def _not_ours(path: Path, found: str) -> MixingError:
    return MixingError(f"{path}: expected validation data, found {found}; make a file with {_COMMAND}")


@contextlib.contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    """Makes one line of what is raised where a file is damaged."""
    try:
        yield
    except MixingError:
        raise
    except _DAMAGE as error:
        raise MixingError(
            f"{path}: damaged or cut short ({' '.join(str(error).split()) or type(error).__name__}); make it anew with"
            f" {_COMMAND}"
        ) from None


def _image_names(facts: ValidationFacts) -> list[str]:
    return [f"images/{camera}" for camera in facts.cameras]


def _array(group: zarr.Group, name: str) -> zarr.Array | None:
    found = group.get(name)
    return found if isinstance(found, zarr.Array) else None


def _check_arrays(path: Path, facts: ValidationFacts, arrays: Mapping[str, zarr.Array]) -> None:
    """Raises `MixingError` where an array is missing, or its shape or dtype is not what the attributes say."""
    count = arrays["part"].shape[0] if "part" in arrays and arrays["part"].ndim else 0
    image = (count, facts.image_size, facts.image_size, 3)
    expected = {
        "state": ("float32", (count, facts.action_dim)),
        "prompt": ("int32", (count, facts.max_token_len)),
        "prompt_mask": ("bool", (count, facts.max_token_len)),
        "actions": ("float32", (count, facts.action_horizon, facts.action_dim)),
        "mask": ("bool", (count, facts.action_horizon)),
        "episode": ("int64", (count,)),
        "frame": ("int64", (count,)),
        "part": ("int8", (count,)),
        **dict.fromkeys(_image_names(facts), ("uint8", image)),
    }
    for name, (dtype, shape) in expected.items():
        array = arrays.get(name)
        found = "none" if array is None else f"{array.dtype} {list(array.shape)}"
        if found != f"{dtype} {list(shape)}":
            raise MixingError(
                f"{path}: array {name}: expected {dtype} {list(shape)}, found {found}; make the file anew with {_COMMAND}"
            )


def _check_parts(path: Path, facts: ValidationFacts, numbers: Mapping[str, np.ndarray]) -> None:
    """Raises `MixingError` where the arrays contradict the episodes in the attributes, or an episode is in both parts."""
    for number, part in enumerate(PARTS):
        found = tuple(np.unique(numbers["episode"][numbers["part"] == number]).tolist())
        if found != facts.episodes[part] or not found:
            raise MixingError(
                f"{path}: episodes of {part}: the attributes name {list(facts.episodes[part])}, the frames are of"
                f" {list(found)}; make the file anew with {_COMMAND}"
            )
    if both := set(facts.episodes["selection"]) & set(facts.episodes["validation"]):
        raise MixingError(f"{path}: episode {min(both)} is in both parts; make the file anew with {_COMMAND}")
