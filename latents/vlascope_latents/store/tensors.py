"""How one captured tensor becomes one Zarr array: its axes, its inner chunks, its metadata.

It touches no files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from vlascope_latents.layout import LatentLayout
from vlascope_latents.plan import CapturePlan, TensorPlan

SMALL_CHUNK = 16 * 1024
"""Bytes under which an inner chunk takes the whole token axis: smaller ones cost other readers more than they save."""

_COMPRESSED = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}},
]  # fmt: skip
_PLAIN = _COMPRESSED[:1]
_NUMPY = {"bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}
_ZARR = {"bfloat16": "uint16", "float32": "float32"}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One array of an episode. Shapes are those of one frame, without the axis `frame`.

    Attributes:
        path: `<expert>/<component>`.
        dims: names of the axes as they stand in the array's metadata.
        shape: sizes of those axes.
        dtype: `bfloat16` or `float32`; what the numbers are.
        chunk: shape of an inner chunk.
        attributes: the array's attributes: dtype, layers, denoise_steps, spans.
        compressed: whether inner chunks went through blosc.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    attributes: Mapping[str, Any] = dataclasses.field(hash=False)
    compressed: bool = False

    @property
    def storage_dtype(self) -> np.dtype:
        """The little-endian numpy dtype of the stored bits."""
        return _NUMPY[self.dtype]

    @property
    def numbers(self) -> dict[str, list[int]]:
        """By axis (`layer`, `denoise_step`), for those that it has, the model's numbers that were captured along it."""
        return {dim: list(self.attributes[f"{dim}s"]) for dim in ("denoise_step", "layer") if dim in self.dims}

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
            (frames, *self.shape), (1, *self.shape), _ZARR[self.dtype], ("frame", *self.dims),
            [{"name": "sharding_indexed", "configuration": sharding}], self.attributes,
        )  # fmt: skip

    @classmethod
    def from_metadata(cls, path: str, content: Mapping[str, Any]) -> StoredTensor:
        """Reads what `metadata` wrote; KeyError, TypeError or ValueError where that is not what it is."""
        sharding = content["codecs"][0]["configuration"]
        attributes = content["attributes"]
        return cls(
            path=path,
            dims=tuple(content["dimension_names"][1:]),
            shape=tuple(content["shape"][1:]),
            dtype={"bfloat16": "bfloat16", "float32": "float32"}[attributes["dtype"]],
            chunk=tuple(sharding["chunk_shape"][1:]),
            attributes=attributes,
            compressed=any(codec["name"] == "blosc" for codec in sharding["codecs"]),
        )


def stored_tensors(plan: CapturePlan, layout: LatentLayout) -> tuple[StoredTensor, ...]:
    """The arrays that an episode captured by `plan` has."""
    return tuple(_stored(tensor, plan, layout) for tensor in plan.tensors)


def _stored(tensor: TensorPlan, plan: CapturePlan, layout: LatentLayout) -> StoredTensor:
    expert_name, component = tensor.path.split("/")
    expert = plan.expert(expert_name)
    attributes: dict[str, Any] = {"dtype": tensor.dtype}
    if "denoise_step" in tensor.dims:
        attributes["denoise_steps"] = list(plan.denoise_steps)
    chunk = [1 if dim in ("denoise_step", "layer") else n for dim, n in zip(tensor.dims, tensor.shape, strict=True)]
    if expert is not None and "layer" in tensor.dims:
        attributes["layers"] = list(expert.layers)
        if "span" in tensor.dims:
            attributes["spans"] = [group.name for group in expert.groups]
        else:
            spans = _captured_spans(expert.groups[0].ranges, layout, expert_name)
            attributes["spans"] = spans
            axis = tensor.dims.index("token")
            tokens = math.gcd(*(span["stop"] - span["start"] for span in spans))
            nbytes = tokens * math.prod(tensor.shape[axis + 1 :]) * _NUMPY[tensor.dtype].itemsize
            if nbytes >= SMALL_CHUNK:
                chunk[axis] = tokens
    # one name, one size in a group: xarray opens a group only then
    dims = tuple("mlp_feature" if d == "feature" and component == "mlp_activation" else d for d in tensor.dims)
    return StoredTensor(tensor.path, dims, tensor.shape, tensor.dtype, tuple(chunk), attributes)


def _captured_spans(ranges: tuple[tuple[int, int], ...], layout: LatentLayout, expert: str) -> list[dict[str, Any]]:
    spans, offset = [], 0
    for start, stop in ranges:
        for span in layout.expert(expert).spans:
            if start <= span.start and span.stop <= stop:
                at = offset + span.start - start
                spans.append({"name": span.name, "start": at, "stop": at + len(span), "position": span.start})
        offset += stop - start
    return spans


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
