"""A slice of a store: which part of which frames, with its labels, read when asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from vlascope_base.text import listed, short

from vlascope_latents.layout import selects
from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import NotCapturedError, StoreError
from vlascope_latents.store.index import FrameLine, decode_value
from vlascope_latents.store.labels import FrameLabels
from vlascope_latents.store.shard_reader import Part, ShardReader, leading
from vlascope_latents.store.tensors import ROW_DIMS, StoredTensor
from vlascope_latents.tokens import ranges_of

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class View:
    """A part of one tensor, the same for every frame of an episode.

    Attributes:
        tensor: as stored.
        part: which rows and ranges of it.
        dims: names of the axes of one frame.
        shape: sizes of those axes.
        coordinates: by axis, the model's numbers or names along it: layers, denoise steps, token positions, spans.
    """

    tensor: StoredTensor
    part: Part
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coordinates: dict[str, list]

    @property
    def dtype(self) -> str:
        """`bfloat16`, `float32` or `int32`; what was stored."""
        return self.tensor.dtype


@dataclasses.dataclass(frozen=True)
class FrameRef:
    """One frame of an episode, and the part of it that was selected."""

    episode: Episode
    view: View
    line: FrameLine


class Selection:
    """A slice over some frames. Slicing it (`selection[10:20]`, or by a mask or numbers) selects fewer frames.

    Attributes:
        frames: the frames, in order of episode and frame number.
        dims: names of the axes; the first is `frame`.
        shape: sizes of those axes.
        dtype: `bfloat16`, `float32` or `int32`; what was stored.
    """

    def __init__(self, shards: ShardReader, view: View, frames: tuple[FrameRef, ...]):
        self.frames = frames
        self.dims = ("frame", *view.dims)
        self.shape = (len(frames), *view.shape)
        self.dtype = view.dtype
        self._shards, self._view = shards, view

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, which: slice | np.ndarray | list) -> Selection:
        numbers = np.arange(len(self))[which]
        return Selection(self._shards, self._view, tuple(self.frames[int(n)] for n in np.atleast_1d(numbers)))

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim} {n}" for dim, n in zip(self.dims, self.shape, strict=True))
        return f"<Selection {self._view.tensor.path} ({axes}) {self.dtype}>"

    @property
    def coordinates(self) -> dict[str, list]:
        """By axis, the model's numbers or names along it: `layer`, `denoise_step`, `token` positions, `span` names."""
        return dict(self._view.coordinates)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Arrays [frames] by name: run, campaign, episode, attempt, status, suite, task_id, task_name, `instruction` (what the
        policy was told; empty where that was nothing), `task_instruction` (what the scene's own task says), episode_index,
        init_state, seed, success, total_steps, timestep, frame (its number within the episode), and `metadata.<key>` for
        whatever else the episodes' metadata hold as a plain value.

        An unknown campaign, suite or task name is empty, an unknown `task_id` -1. Any other label is an object array with None
        where an episode does not have it, a label with fractions NaN there.
        """
        return self._labels().arrays({"campaign": "", "suite": "", "task_name": "", "task_id": -1})

    def _labels(self) -> FrameLabels:
        episodes = {id(frame.episode): frame.episode for frame in self.frames}
        places = {key: place for place, key in enumerate(episodes)}
        return FrameLabels(
            list(episodes.values()),
            np.array([places[id(frame.episode)] for frame in self.frames], np.int64),
            np.array([frame.line.timestep for frame in self.frames], np.int64),
            np.array([frame.line.frame for frame in self.frames], np.int64),
        )

    def values(self, name: str) -> np.ndarray:
        """A small value of every frame, stacked: for example `actions`, `annotations/distance`.

        Raises:
            NotCapturedError: a frame lacks it; the message lists what it has.
        """
        for frame in self.frames:
            if name not in frame.line.values:
                raise NotCapturedError(
                    f"episode {frame.episode.row.folder}, frame {frame.line.frame}: no value {name!r}; "
                    f"found {', '.join(frame.line.values) or 'none'}"
                )
        if not self.frames:
            raise StoreError(f"value {name}: the selection has no frames")
        return np.stack([decode_value(frame.line.values[name]) for frame in self.frames])

    def array(self, dtype: str = "float32", *, workers: int | None = None) -> np.ndarray:
        """Reads the slice.

        Args:
            dtype: `float32`, or the one that was stored: `bfloat16` (of ml_dtypes) or `int32`.
            workers: threads; twice the processor's cores, at most 16, unless told.

        Returns:
            An array of `shape`.

        Raises:
            DamagedError: a frame is not what was written.
            StoreError: the dtype is neither.
        """
        stored = self._view.tensor.storage_dtype
        if dtype not in ("float32", self.dtype):
            raise StoreError(f"dtype: expected float32 or the stored {self.dtype}, found {dtype}")
        convert = dtype != self.dtype
        out = np.empty(self.shape, np.float32 if dtype == "float32" else stored)

        def read(numbers: range) -> None:
            scratch = np.empty(self._view.shape, stored) if convert else None
            for number in numbers:
                frame = self.frames[number]
                tensor = frame.view.tensor
                path = frame.episode.folder / tensor.path / tensor.key(frame.line.frame)
                target = out[number] if scratch is None else scratch
                self._shards.read(path, tensor, frame.view.part, target)
                if scratch is not None and self.dtype != "bfloat16":
                    out[number] = scratch
                elif scratch is not None:
                    # bfloat16 is the upper half of a float32
                    bits = out[number].view(np.uint32)
                    np.left_shift(scratch, 16, out=bits, dtype=np.uint32, casting="unsafe")

        count = min(workers or min(16, 2 * (os.cpu_count() or 1)), max(1, len(self)))
        with ThreadPoolExecutor(count, thread_name_prefix="latent-store-reader") as pool:
            list(pool.map(read, [range(first, len(self), count) for first in range(count)]))
        return out.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else out

    def batches(self, frames: int) -> Iterator[Selection]:
        """The selection in pieces of up to `frames` frames."""
        for start in range(0, len(self), frames):
            yield self[start : start + frames]

    def to_xarray(self, dtype: str = "float32") -> xarray.DataArray:
        """Reads the slice into an xarray `DataArray` whose axes have the names and numbers of the model as coordinates.

        These are `layer`, `denoise_step`, `token` (with `token_span`: what each token belongs to) or `span`. Along `frame`
        stand the labels. Some of them differ from what `labels` has:

        - An unknown campaign, suite, task name or `task_id` is None, as any other unknown label; `groupby` leaves it out.
        - `success` is bool: True where the episode is known to have succeeded. `failure` is True where it is known not to have.
          Both are False where nobody said, so that `array.where(array.success)` takes no frame for what it may not be.
        - The number of a frame within its episode is `frame_number`, for `frame` is the axis.

        Raises:
            StoreError: xarray is not installed, or what `array` raises it for.
        """
        try:
            import xarray
        except ImportError as error:
            raise StoreError("to_xarray: needs xarray: install vlascope-latents[xarray]") from error

        labels = self._labels().arrays()
        labels["frame_number"] = labels.pop("frame")
        outcome = labels["success"].tolist()
        labels["success"] = np.array([value is True for value in outcome], bool)
        labels["failure"] = np.array([value is False for value in outcome], bool)
        coordinates = axis_coordinates(self._view) | {name: ("frame", label) for name, label in labels.items()}
        return xarray.DataArray(self.array(dtype), dims=self.dims, coords=coordinates, name=self._view.tensor.path)


def axis_coordinates(view: View) -> dict[str, Any]:
    """The model's numbers and names along a view's axes, for xarray; `token_span` says of each token what it belongs to."""
    found: dict[str, Any] = dict(view.coordinates)
    if "token" in found:
        spans = view.tensor.attributes["spans"]
        owner = {s["position"] + k: s["name"] for s in spans for k in range(s["stop"] - s["start"])}
        found["token_span"] = ("token", [owner[token] for token in found["token"]])
    return found


def named_coordinates(view: View) -> dict[str, Any]:
    """`axis_coordinates` by the names that the axes have in the array's group."""
    called = dict(zip(view.tensor.dims, view.tensor.names, strict=True))
    found: dict[str, Any] = {}
    for name, value in axis_coordinates(view).items():
        if name == "token_span":
            found[called["token"].replace("token", "token_span", 1)] = (called["token"], value[1])
        else:
            found[called[name]] = value
    return found


def resolve(
    tensor: StoredTensor, episode: Episode, asked: Mapping[str, tuple[int, ...] | None], span: str | None
) -> View:
    """Finds a slice in a tensor.

    Args:
        tensor: of the episode.
        episode: whose tensor it is.
        asked: by axis of `ROW_DIMS`, the model's numbers along it; all that were captured for None.
        span: of tokens; of attention those are queries. Every captured one for None.

    Raises:
        NotCapturedError: the tensor lacks any of it; the message lists what it has.
    """
    where = f"{episode.run}, episode {episode.row.folder}, {tensor.path}"
    coordinates: dict[str, list] = {}
    positions, along = np.zeros(1, np.int64), np.zeros(1, np.int64)
    lead = leading(tensor)
    for dim in ROW_DIMS:
        wanted = asked.get(dim)
        if dim not in tensor.dims:
            if wanted is not None:
                raise NotCapturedError(f"{where}: has no axis {dim}; axes: {', '.join(tensor.dims)}")
            continue
        captured = tensor.numbers[dim]
        missing = [n for n in wanted or () if n not in captured]
        if missing:
            raise NotCapturedError(f"{where}: {dim} {missing[0]} was not captured; captured: {captured}")
        coordinates[dim] = list(captured if wanted is None else wanted)
        along = np.array([captured.index(n) for n in coordinates[dim]], np.int64)
        if dim in tensor.dims[:lead]:
            positions = (positions[:, None] * len(captured) + along[None, :]).reshape(-1)
    ranges = _ranges(tensor, span, where, coordinates)
    if tensor.dims[lead] in ROW_DIMS:
        ranges = tuple((n, n + 1) for n in along.tolist())
    inner = sum(stop - start for start, stop in ranges)
    rows = tuple(len(coordinates[dim]) for dim in tensor.dims[:lead])
    shape = (*rows, inner, *tensor.shape[lead + 1 :])
    keys = tensor.attributes.get("key_spans", ())
    if "key_span" in tensor.dims:
        coordinates["key_span"] = list(keys)
    elif "key" in tensor.dims:
        coordinates["key"] = [s["position"] + k for s in keys for k in range(s["stop"] - s["start"])]
    if 0 in shape:
        raise StoreError(f"{where}: the slice selects nothing")
    return View(tensor, Part(tuple(positions.tolist()), ranges), tensor.dims, shape, coordinates)


def _ranges(
    tensor: StoredTensor, span: str | None, where: str, coordinates: dict[str, list]
) -> tuple[tuple[int, int], ...]:
    """The ranges of the axis after the rows that `span` names; adds that axis to `coordinates`."""
    dim, size = tensor.dims[leading(tensor)], tensor.shape[leading(tensor)]
    if dim not in ("token", "span"):
        if span is not None:
            raise NotCapturedError(f"{where}: has no axis token; axes: {', '.join(tensor.dims)}")
        return ((0, size),)
    spans = tensor.attributes["spans"]
    names: list[str] = spans if dim == "span" else [s["name"] for s in spans]
    # what was reduced under this very name, before what is a part of it
    chosen = [at for at, name in enumerate(names) if span is None or (dim == "span" and name == span)]
    chosen = chosen or [at for at, name in enumerate(names) if selects(str(span), name)]
    if not chosen:
        what = f"span {short(span)} was not captured; captured"
        if keys := {"key", "key_span"} & set(tensor.dims):
            what = f"no queries of span {short(span)} were captured (keys are the axis {min(keys)}); captured queries"
        raise NotCapturedError(f"{where}: {what}: {listed(names)}")
    if dim == "span":
        coordinates["span"] = [names[at] for at in chosen]
        return ranges_of(chosen)
    pieces = [spans[at] for at in chosen]
    coordinates["token"] = [s["position"] + k for s in pieces for k in range(s["stop"] - s["start"])]
    return tuple((s["start"], s["stop"]) for s in pieces)
