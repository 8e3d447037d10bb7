"""How one captured tensor becomes one Zarr array: its axes, its inner chunks, its metadata.

It touches no files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from vlascope_latents.layout import ModelLayout, Span
from vlascope_latents.plan import CapturePlan, SitePlan
from vlascope_latents.tokens import TokenGroup

SMALL_CHUNK = 16 * 1024
"""Bytes under which an inner chunk takes the whole token axis: smaller ones cost other readers more than they save."""

_COMPRESSED = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}},
]  # fmt: skip
_PLAIN = _COMPRESSED[:1]
_NUMPY = {"bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4"), "int32": np.dtype("<i4")}
_ZARR = {"bfloat16": "uint16", "float32": "float32", "int32": "int32"}
ROW_DIMS = ("denoise_step", "decode_step", "layer", "head")
"""Axes of which an inner chunk has one entry; they lead, where an array has them."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One array of an episode. Shapes are those of one frame, without the axis `frame`.

    Attributes:
        path: `<expert>/<name or component>`.
        dims: names of the axes, as the capture plan has them.
        shape: sizes of those axes.
        dtype: `bfloat16`, `float32` or `int32`; what the numbers are.
        chunk: shape of an inner chunk.
        attributes: the array's attributes: axes (`dims`), component, reduction, dtype, layers, heads, denoise_steps,
            decode_steps, spans, key_spans; of reduced tokens also span_tokens, the positions behind each of spans.
        names: names of the axes as they stand in the array's metadata: those of `dims`, but for axes that are unlike an axis
            of the same name in another array of the group.
        compressed: whether inner chunks went through blosc.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    attributes: Mapping[str, Any] = dataclasses.field(hash=False)
    names: tuple[str, ...]
    compressed: bool = False

    @property
    def storage_dtype(self) -> np.dtype:
        """The little-endian numpy dtype of the stored bits."""
        return _NUMPY[self.dtype]

    @property
    def numbers(self) -> dict[str, list[int]]:
        """By axis of `ROW_DIMS`, for those that it has, the model's numbers that were captured along it."""
        return {dim: list(self.attributes[f"{dim}s"]) for dim in ROW_DIMS if dim in self.dims}

    @property
    def reduction(self) -> str:
        """What became of its tokens: `none`, `mean` or `last`."""
        return self.attributes["reduction"]

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of one frame, without index."""
        return math.prod(self.shape) * self.storage_dtype.itemsize

    @functools.cached_property
    def grid(self) -> tuple[int, ...]:
        """Inner chunks along each axis."""
        return tuple(n // c for n, c in zip(self.shape, self.chunk, strict=True))

    @functools.cached_property
    def index_nbytes(self) -> int:
        """Bytes of the index at the end of a shard, its checksum included."""
        return 16 * math.prod(self.grid) + 4

    @functools.cached_property
    def plain_index(self) -> bytes:
        """The index of an uncompressed shard, the same for every frame."""
        count = math.prod(self.grid)
        size = self.nbytes // count
        index = np.empty((count, 2), "<u8")
        index[:, 0] = np.arange(count) * size
        index[:, 1] = size
        return seal_index(index)

    def key(self, frame: int) -> str:
        """The file of one frame within the array's folder."""
        return ".".join(["c", str(frame), *["0"] * len(self.shape)])

    def metadata(self, frames: int) -> bytes:
        """zarr.json of the array when it has `frames` frames."""
        codecs = _COMPRESSED if self.compressed else _PLAIN
        if self.compressed:
            blosc = {**codecs[1]["configuration"], "typesize": self.storage_dtype.itemsize}
            codecs = [codecs[0], {"name": "blosc", "configuration": blosc}]
        sharding = {
            "chunk_shape": [1, *self.chunk],
            "codecs": codecs,
            "index_codecs": [*_PLAIN, {"name": "crc32c"}],
            "index_location": "end",
        }
        return array_metadata(
            (frames, *self.shape), (1, *self.shape), _ZARR[self.dtype], ("frame", *self.names),
            [{"name": "sharding_indexed", "configuration": sharding}], self.attributes,
        )  # fmt: skip

    @classmethod
    def from_metadata(cls, path: str, content: Mapping[str, Any]) -> StoredTensor:
        """Reads what `metadata` wrote; KeyError, TypeError or ValueError where that is not what it is."""
        sharding = content["codecs"][0]["configuration"]
        attributes = content["attributes"]
        return cls(
            path=path,
            dims=tuple(attributes["axes"]),
            shape=tuple(content["shape"][1:]),
            dtype={dtype: dtype for dtype in _NUMPY}[attributes["dtype"]],
            chunk=tuple(sharding["chunk_shape"][1:]),
            attributes=attributes,
            names=tuple(content["dimension_names"][1:]),
            compressed=any(codec["name"] == "blosc" for codec in sharding["codecs"]),
        )


def stored_tensors(plan: CapturePlan, layout: ModelLayout) -> tuple[StoredTensor, ...]:
    """The arrays that an episode captured by `plan` has."""
    known: dict[tuple[str, str], object] = {}
    return tuple(_stored(site, layout, known) for site in plan.sites)


def _stored(site: SitePlan, layout: ModelLayout, known: dict[tuple[str, str], object]) -> StoredTensor:
    tensor = site.tensor
    attributes: dict[str, Any] = {
        "dtype": tensor.dtype, "axes": list(tensor.dims), "component": site.component, "reduction": site.reduction,
    }  # fmt: skip
    rows = {layout.expert(site.expert).step_axis: site.steps, "layer": site.layers, "head": site.heads}
    attributes |= {f"{dim}s": list(numbers) for dim, numbers in rows.items() if dim in tensor.dims}
    chunk = [1 if dim in ROW_DIMS else n for dim, n in zip(tensor.dims, tensor.shape, strict=True)]
    expert = layout.expert(site.expert)
    for dim, groups, spans in (
        ("token", site.groups, [(None, span) for span in expert.spans]),
        ("key", site.keys, layout.keys(expert)),
    ):
        field = "spans" if dim == "token" else "key_spans"
        if dim in tensor.dims:
            attributes[field] = _captured(groups[0], spans, site.prompt)
        elif groups:
            attributes[field] = [group.name for group in groups]
            if dim == "token":
                attributes["span_tokens"] = [
                    {"ranges": list(map(list, g.ranges)), "ends": list(g.ends)} for g in groups
                ]
    if "token" in tensor.dims:
        axis = tensor.dims.index("token")
        tokens = math.gcd(*(span["stop"] - span["start"] for span in attributes["spans"]))
        if tokens * math.prod(tensor.shape[axis + 1 :]) * _NUMPY[tensor.dtype].itemsize >= SMALL_CHUNK:
            chunk[axis] = tokens
    names = tuple(
        _axis_name(dim, n, attributes, tensor.path, known) for dim, n in zip(tensor.dims, tensor.shape, strict=True)
    )
    return StoredTensor(tensor.path, tensor.dims, tensor.shape, tensor.dtype, tuple(chunk), attributes, names)


def _axis_name(
    dim: str, size: int, attributes: Mapping[str, Any], path: str, known: dict[tuple[str, str], object]
) -> str:
    """`dim`, unless another array of the group has an axis of that name with other entries: xarray opens no such group."""
    group, _, name = path.partition("/")
    field = {"token": "spans", "span": "spans", "key": "key_spans", "key_span": "key_spans"}.get(dim, f"{dim}s")
    entries = (size, attributes.get(field))
    return dim if known.setdefault((group, dim), entries) == entries else f"{dim}_{name}"


def _captured(
    group: TokenGroup, spans: Sequence[tuple[str | None, Span]], prompt: tuple[int, int] | None
) -> list[dict[str, Any]]:
    """What stands along an axis of tokens: pieces of spans, `position` being that of a piece's first token in the sequence.

    Positions that count back from the prompt's end come last, as pieces of one token each with a negative position.
    """
    found, offset = [], 0
    for start, stop in group.ranges:
        for owner, span in spans:
            low, high = max(start, span.start), min(stop, span.stop)
            if low < high:
                at = offset + low - start
                piece = {"name": span.name, "start": at, "stop": at + high - low, "position": low}
                found.append(piece if owner is None else {"expert": owner, **piece})
        offset += stop - start
    for at, end in enumerate(group.ends, offset):
        name = next(span.name for _, span in spans if prompt and span.start == prompt[0])
        found.append({"name": name, "start": at, "stop": at + 1, "position": end})
    return found


def array_metadata(
    shape: tuple[int, ...], chunk: tuple[int, ...], data_type: str, dims: tuple[str, ...], codecs: list, attributes: Mapping
) -> bytes:  # fmt: skip
    """zarr.json of an array."""
    content = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        # dots: a frame is one file in one folder, and one folder to sync
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if data_type == "bool" else 0,
        "codecs": codecs,
        "dimension_names": list(dims),
        "attributes": dict(attributes),
    }
    return json.dumps(content).encode()


def column_metadata(column: np.ndarray, dims: tuple[str, ...]) -> bytes:
    """zarr.json of a small column, kept in one chunk."""
    chunk = tuple(max(1, n) for n in column.shape)
    return array_metadata(column.shape, chunk, column.dtype.name, dims, _PLAIN, {})


def group_metadata(attributes: Mapping[str, object] | None = None) -> bytes:
    """zarr.json of a group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}).encode()


def seal_index(index: np.ndarray) -> bytes:
    """The bytes of a shard's index (uint64, inner chunks by offset and nbytes) with their crc32c."""
    content = index.astype("<u8").tobytes()
    return content + google_crc32c.value(content).to_bytes(4, "little")
