"""Reads and writes the reference's Orbax checkpoints: the folder `params/`, with or without a trailing `value` level.

Reading goes through tensorstore, which Orbax itself writes with, one chunk after the other and cast while it is copied.
The reference stores every array as one compressed chunk, so the least that can be held for an array is the decompressed
chunk and the result; the compressed bytes stay in the page cache, since the files are mapped, not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from vlascope_server.checkpoints.boxes import Box, grid
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.weights import empty
from vlascope_server.json_file import JsonError, JsonMap, read_json

_SLICE_BYTES = 256 << 20
"""Chunks smaller than this are read several at a time."""
_CHUNK_BYTES = 64 << 20
"""Of what we write, so that it can be read in slices; the reference's loader takes any chunk size."""


class OrbaxWeights:
    """The parameters in one `params/` folder; opening it reads no weights.

    Raises:
        CheckpointError: the folder is no finished Orbax checkpoint of parameters.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        metadata = _metadata(folder)
        kvstore, keys = _kvstore(folder)
        driver = "zarr3" if _flag(metadata, "use_zarr3") else "zarr"
        # mapped, not read: compressed bytes would count as memory; no cache: every chunk is wanted exactly once
        context = ts.Context({"file_io_mode": {"mode": "memmap"}, "cache_pool": {"total_bytes_limit": 0}})
        opening = {}
        for name, path in _names(folder, metadata).items():
            spec = {"driver": driver, "kvstore": {**kvstore, "path": f"{kvstore.get('path', '')}{path}/"}}
            opening[name] = ts.open(spec, open=True, read=True, context=context)
        self._stores: dict[str, ts.TensorStore] = {}
        for name, future in opening.items():
            try:
                self._stores[name] = future.result()
            except (ValueError, OSError) as error:
                raise _damaged(folder, name, error) from error
        # without the flag an absent chunk may be one full of zeros; with it, the checkpoint is broken
        if _flag(metadata, "store_array_data_equal_to_fill_value") and keys is not None:
            self._check_chunks(keys, _names(folder, metadata))
        self.shapes = {name: tuple(store.shape) for name, store in self._stores.items()}
        self.dtypes = {name: store.dtype.name for name, store in self._stores.items()}

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """One parameter in `dtype`, or as stored; holds one chunk besides the result.

        Raises:
            CheckpointError: a data file is missing, cut off or damaged.
        """
        store = self._stores[name]
        result = empty(tuple(store.shape), dtype or store.dtype.name)
        target = ts.array(result)
        source = store if store.dtype == target.dtype else ts.cast(store, target.dtype)
        try:
            for rows in _slices(store):
                target[rows].write(source[rows]).result()
        except (ValueError, OSError) as error:
            raise _damaged(self._folder, name, error) from error
        return result

    parts_cost_the_whole = True

    def pieces(self, name: str) -> list[Box]:
        """The chunks of one parameter."""
        store = self._stores[name]
        return grid(tuple(store.shape), _chunk_shape(store.chunk_layout.read_chunk))

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of one chunk, or all of it, as stored; holds the chunk besides the result.

        Raises:
            CheckpointError: a data file is missing, cut off or damaged.
        """
        try:
            return self._stores[name][box or ...].read().result()
        except (ValueError, OSError) as error:
            raise _damaged(self._folder, name, error) from error

    def _check_chunks(self, keys: list[str], paths: Mapping[str, str]) -> None:
        found: dict[str, int] = {}
        for key in keys:
            path, _, chunk = key.partition("/")
            if chunk not in (".zarray", ".zattrs", "zarr.json"):
                found[path] = found.get(path, 0) + 1
        for name, store in self._stores.items():
            grid = zip(store.shape, _chunk_shape(store.chunk_layout.write_chunk), strict=True)
            expected = math.prod(-(-size // step) for size, step in grid)
            if found.get(paths[name], 0) != expected:
                raise CheckpointError(
                    f"{self._folder}: parameter {name}: expected {expected} chunks, found {found.get(paths[name], 0)};"
                    " the checkpoint is half written: copy or save it again"
                )


def read_step(train_state: Path) -> int | None:
    """The training step in a checkpoint's `train_state/`, or None where that holds none; reads one number."""
    if not (train_state / "manifest.ocdbt").is_file():
        return None
    kvstore = {"driver": "ocdbt", "base": _url(train_state), "path": "step/"}
    try:
        return int(ts.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result().read().result())
    except (ValueError, OSError):
        return None


def write_orbax(folder: Path, params: Mapping[str, np.ndarray]) -> None:
    """Writes `params/` as the reference's loader reads it: the tree {"params": nested parameters}, no `value` level.

    Args:
        folder: must not exist; appears only when complete.
        params: flat name -> array.
    """
    import orbax.checkpoint as ocp

    tree: dict[str, Any] = {}
    for name, array in params.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    item = {"params": tree}
    save_args = ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve(), args=ocp.args.PyTreeSave(item, save_args=_like(item, save_args)))
    # names the folder that it was written in, which nobody reads and a checkpoint that is handed on should not tell
    (folder / "commit_success.txt").unlink(missing_ok=True)


def _like(tree: Any, leaf: Any) -> Any:
    return {key: _like(value, leaf) for key, value in tree.items()} if isinstance(tree, dict) else leaf


def _metadata(folder: Path) -> JsonMap:
    path = folder / "_METADATA"
    try:
        return read_json(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; expected an Orbax checkpoint's list of parameters, so this one is half written or was"
            " copied in part: copy or save it again"
        ) from None
    except JsonError as error:
        raise CheckpointError(f"{error}: copy or save it again") from None


def _flag(metadata: JsonMap, field: str) -> bool:
    try:
        return bool(metadata.flag(field))
    except JsonError as error:
        raise CheckpointError(f"{error}: copy or save it again") from None


def _names(folder: Path, metadata: JsonMap) -> dict[str, str]:
    """Flat name -> name of the stored array."""
    try:
        tree = metadata.map("tree_metadata") or metadata.refuse("tree_metadata", "a map")
        entries = [tree.map(name) or tree.refuse(name, "a map") for name in tree]
        keys = [entry.maps("key_metadata") or entry.refuse("key_metadata", "a list of maps") for entry in entries]
        paths = [tuple(str(key.either("key", str, int)) for key in path) for path in keys]
    except JsonError as error:
        raise CheckpointError(f"{error}: copy or save it again") from None
    if not paths or any(len(path) < 2 or path[0] != "params" for path in paths):
        found = "/".join(next((path for path in paths if path[0] != "params"), ("nothing",)))
        raise CheckpointError(
            f"{folder}: expected parameters, all below 'params/'; found {found}: give the folder that holds params/"
        )
    last = -1 if all(path[-1] == "value" for path in paths) else None
    return {"/".join(path[1:last]): ".".join(path) for path in paths}


def _kvstore(folder: Path) -> tuple[dict[str, Any], list[str] | None]:
    """Where the arrays lie, and the keys in it: an OCDBT database, or (older checkpoints) plain files."""
    if not (folder / "manifest.ocdbt").is_file():
        if any(folder.glob("*/.zarray")) or any(folder.glob("*/zarr.json")):
            return {"driver": "file", "path": f"{folder.resolve()}/"}, None
        raise CheckpointError(
            f"{folder / 'manifest.ocdbt'}: missing; the checkpoint is half written or was copied in part:"
            " copy or save it again"
        )
    kvstore = {"driver": "ocdbt", "base": _url(folder)}
    try:
        keys = ts.KvStore.open(kvstore).result().list().result()
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{folder}: a data file is missing or damaged; copy or save it again ({_brief(error)})"
        ) from error
    return kvstore, [key.decode() for key in keys]


def _slices(store: ts.TensorStore) -> list[Any]:
    """Cuts an array along its first axis at chunk boundaries, into pieces of at least one chunk."""
    if store.ndim == 0 or store.size == 0:
        return [...]
    rows, row_bytes = store.shape[0], store.size // store.shape[0] * store.dtype.numpy_dtype.itemsize
    chunk = _chunk_shape(store.chunk_layout.read_chunk)[0]
    step = chunk * max(1, _SLICE_BYTES // max(1, chunk * row_bytes))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _chunk_shape(grid: ts.ChunkLayout.Grid) -> tuple[int, ...]:
    """Of an open array, which always has one."""
    return tuple(int(size) for size in grid.shape or () if size is not None)


def _damaged(folder: Path, name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: parameter {name}: its data is missing or damaged; copy or save it again ({_brief(error)})"
    )


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0].split(" [")[0][:200]


def _url(folder: Path) -> str:
    return folder.resolve().as_uri() + "/"
