"""A dataset's features: what each column is, as Arrow stores it and as numpy reads it.

A feature is the map that LeRobot keeps in `meta/info.json`: `dtype` (a numpy name, `string`, `image` or `video`), `shape` of
one frame and `names` of its parts. Images lie in the table as {bytes, path}; videos are files of their own and no column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from vlascope_datasets.errors import DamagedError, DatasetError

Feature = Mapping[str, Any]
"""What `meta/info.json` says of one feature."""
Features = dict[str, dict[str, Any]]

INDEX_FEATURES: Features = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
CAMERAS = ("image", "video")
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def complete(features: Mapping[str, Feature], video: bool | None = None) -> Features:
    """What a user declared, with the five index columns that every dataset has.

    Args:
        features: by column; `names` may be left out. An index column may not be among them.
        video: True stores every camera as video, False every camera as images in the table, None as `dtype` says.

    Raises:
        DatasetError: a name, dtype or shape that the format has no place for.
    """
    found: Features = {}
    for key, feature in features.items():
        if key in INDEX_FEATURES:
            raise DatasetError(f"feature {key}: the writer fills it in; leave it out")
        if not key or "/" in key or key in (".", ".."):
            raise DatasetError(f"feature {key!r}: a name is not empty and has no slash")
        unknown = {"dtype", "shape"} - set(feature)
        if unknown:
            raise DatasetError(f"feature {key}: lacks {', '.join(sorted(unknown))}")
        dtype, shape = str(feature["dtype"]), [int(n) for n in feature["shape"]]
        camera = dtype in CAMERAS
        if camera:
            dtype = dtype if video is None else CAMERAS[video]
            if len(shape) != 3 or shape[2] != 3:
                raise DatasetError(f"feature {key}: a camera's shape is (height, width, 3), found {tuple(shape)}")
            if dtype == "video" and (shape[0] % 2 or shape[1] % 2):
                raise DatasetError(
                    f"feature {key}: yuv420p needs an even height and width, found {shape[0]}x{shape[1]}"
                )
        elif not shape or min(shape) < 1:
            raise DatasetError(f"feature {key}: expected a shape such as (7,), found {tuple(shape)}")
        names = feature.get("names") or (["height", "width", "channel"] if camera else None)
        found[key] = {**feature, "dtype": dtype, "shape": shape, "names": names}
        arrow_type(key, found[key])
    return found | {key: dict(feature) for key, feature in INDEX_FEATURES.items()}


def columns(features: Features) -> list[str]:
    """Features that are read as columns of numbers or text: no cameras."""
    return [key for key, feature in features.items() if feature["dtype"] not in CAMERAS and not _why_unread(feature)]


def cameras(features: Features) -> list[str]:
    """Features that are read as cameras."""
    return [key for key, feature in features.items() if feature["dtype"] in CAMERAS and not _why_unread(feature)]


def stored_as(features: Features, dtype: str) -> list[str]:
    """Features that are stored as `image` or as `video`, read or not."""
    return [key for key, feature in features.items() if feature["dtype"] == dtype]


def unread(features: Features) -> dict[str, str]:
    """Features that are carried over as they are stored, and never read: why, by column."""
    return {key: why for key, feature in features.items() if (why := _why_unread(feature))}


def _why_unread(feature: Feature) -> str:
    """Empty for a feature that is read."""
    dtype, info = feature["dtype"], feature.get("info")
    if dtype in CAMERAS:
        # LeRobot marks a depth map in `info`, as a video's own facts or alone
        facts = info if isinstance(info, Mapping) else {}
        return "a depth map" if facts.get("is_depth_map") or facts.get("video.is_depth_map") else ""
    if 0 in feature["shape"]:
        return f"of shape {tuple(feature['shape'])}, which holds nothing"
    if dtype == "string":
        return ""
    try:
        known = np.dtype(dtype).kind in "fiub" and pa.type_for_alias(dtype) is not None
    except (TypeError, ValueError, SyntaxError):  # numpy reads a dtype as Python
        known = False
    return "" if known else f"of dtype {dtype!r}"


def arrow_type(key: str, feature: Feature) -> pa.DataType:
    """How one frame's value lies in a Parquet file.

    Raises:
        DatasetError: a dtype that is not known.
    """
    if feature["dtype"] == "image":
        return _IMAGE
    if feature["dtype"] == "video":
        return pa.null()
    try:
        inner = pa.type_for_alias(feature["dtype"])
    except ValueError as error:
        raise DatasetError(
            f"feature {key}: dtype {feature['dtype']!r} is not known; use a numpy name, string, image or video"
        ) from error
    shape = feature["shape"]
    if math.prod(shape) == 1 and len(shape) == 1:
        return inner
    if len(shape) == 1:
        return pa.list_(inner, shape[0])
    for _ in shape:
        inner = pa.list_(inner)
    return inner


def schema(features: Features, as_stored: Mapping[str, pa.Field] | None = None) -> pa.Schema:
    """Of a data file, with the metadata by which Hugging Face `datasets` knows images and fixed lengths.

    Args:
        features: of the dataset.
        as_stored: the fields of columns that are not read, as the file that they come from has them.
    """
    fields, described, as_stored = [], {}, as_stored or {}
    for key, feature in features.items():
        if key in as_stored:
            fields.append(as_stored[key].with_name(key))
        elif feature["dtype"] != "video":
            fields.append(pa.field(key, arrow_type(key, feature)))
            described[key] = _hugging_face(feature)
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.schema(fields, metadata)


def _hugging_face(feature: Feature) -> dict[str, Any]:
    """`Sequence` where newer versions say `List`: every version reads it."""
    if feature["dtype"] == "image":
        return {"_type": "Image"}
    value, shape = {"dtype": feature["dtype"], "_type": "Value"}, list(feature["shape"])
    if shape == [1]:
        return value
    if len(shape) == 1:
        return {"feature": value, "length": shape[0], "_type": "Sequence"}
    return {"shape": shape, "dtype": feature["dtype"], "_type": f"Array{len(shape)}D"}


def checked(key: str, feature: Feature, values: ArrayLike) -> np.ndarray:
    """Values of one column over an episode, in the feature's dtype: [n] for shape (1,), else [n, *shape].

    Raises:
        DatasetError: another shape, a dtype that does not convert without loss of kind, or a number that is not finite.
    """
    array = np.asarray(values)
    shape = tuple(feature["shape"])
    if shape == (1,) and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    expected = () if shape == (1,) else shape
    if array.ndim == 0 or array.shape[1:] != expected:
        raise DatasetError(f"{key}: expected shape {('frames', *expected)}, found {array.shape}")
    if feature["dtype"] == "string":
        return array.astype(object)
    dtype = np.dtype(feature["dtype"])
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DatasetError(f"{key}: expected {dtype}, found {array.dtype}")
    array = np.ascontiguousarray(array, dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0, 0])
        raise DatasetError(f"{key}: frame {bad} holds a number that is not finite")
    return array


def to_arrow(key: str, feature: Feature, values: np.ndarray) -> pa.Array:
    """`values` [n, *shape] as the column of a data file."""
    kind, shape = arrow_type(key, feature), feature["shape"]
    flat = np.ascontiguousarray(values).reshape(-1)
    flat = pa.array(flat.tolist(), pa.string()) if feature["dtype"] == "string" else pa.array(flat)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, shape[0])
    if not pa.types.is_list(kind):
        return flat.cast(kind)
    for size in reversed(shape):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size), pa.int32()), flat)
    return flat


def from_arrow(key: str, feature: Feature, column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column as an array [n] or [n, *shape]; text as an array of objects.

    Raises:
        DamagedError: it does not have that shape or type, or holds nulls or numbers that the feature's dtype cannot hold.
    """
    array: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    shape = tuple(feature["shape"])
    flat = _flattened(key, shape, array)
    array = _text(key, flat) if feature["dtype"] == "string" else _numbers(key, np.dtype(feature["dtype"]), flat)
    return array.reshape((len(column),) if shape == (1,) else (len(column), *shape))


def _flattened(key: str, shape: tuple[int, ...], array: pa.Array) -> pa.Array:
    """The values of lists in lists, each as long as the shape says; a single value may stand in a list of one, or alone."""
    kind, sizes = array.type, list(shape)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            raise DamagedError(f"column {key}: holds nulls")
        if not sizes:
            raise DamagedError(f"column {key}: expected shape {shape}, found {kind}")
        size = sizes.pop(0)
        lengths = np.asarray(pc.call_function("list_value_length", [array]))
        if (wrong := np.flatnonzero(lengths != size)).size:
            raise DamagedError(
                f"column {key}: expected shape {shape}, found a list of {lengths[wrong[0]]} where one of {size} belongs"
            )
        array = array.flatten()
    if sizes and shape != (1,):
        raise DamagedError(f"column {key}: expected shape {shape}, found {kind}")
    if array.null_count:
        raise DamagedError(f"column {key}: holds nulls")
    return array


def _text(key: str, array: pa.Array) -> np.ndarray:
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DamagedError(f"column {key}: expected text, found {array.type}")
    found = np.empty(len(array), object)
    found[:] = array.to_pylist()
    return found


def _numbers(key: str, dtype: np.dtype, array: pa.Array) -> np.ndarray:
    """Numbers in `dtype`, as they are: what it cannot hold is refused; a float may be rounded to a shorter one."""
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DamagedError(f"column {key}: expected {dtype}, found {kind}")
    stored = array.to_numpy(zero_copy_only=False)
    with np.errstate(all="ignore"):
        values = stored.astype(dtype)
        if stored.dtype.kind == "f" and dtype.kind == "f":
            wrong = np.isfinite(stored) != np.isfinite(values)
        else:
            wrong = (values.astype(stored.dtype) != stored) | ((values < 0) != (stored < 0))
    if wrong.any():
        raise DamagedError(f"column {key}: holds {stored[int(np.argmax(wrong))]}, which {dtype} cannot hold")
    return values
