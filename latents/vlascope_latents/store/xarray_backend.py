"""Opens runs in xarray, where `engine="vlascope"` names them: an entry point of this package has xarray find this module.

    tree = xarray.open_datatree(run, engine="vlascope")
    tree["episodes/task3-ep0/vlm"]["hidden_states"].sel(layer=5)

The tree has the groups of the Zarr store. Other than there, bfloat16 is float32 and axes have the model's numbers and names as
coordinates; an episode that is being written shows its committed frames. Tensors are read when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.exports import plain_attributes
from vlascope_latents.store.index import FrameLine
from vlascope_latents.store.reader import LatentStore
from vlascope_latents.store.run_folder import RUN_FILE, RunInfo
from vlascope_latents.store.sealing import EPISODES, column_dims, columns_of
from vlascope_latents.store.selection import FrameRef, Selection, axis_coordinates, resolve
from vlascope_latents.store.shard_reader import ROW_DIMS, ShardReader
from vlascope_latents.store.tensors import StoredTensor


class VlascopeBackend(BackendEntrypoint):
    """What xarray calls for `engine="vlascope"`."""

    description = "Opens vlascope's latent stores: a run, or a folder of runs"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Whether it is the folder of a run; a folder of runs has to be opened with the engine's name."""
        return isinstance(filename_or_obj, str | os.PathLike) and (Path(filename_or_obj) / RUN_FILE).is_file()

    def open_datatree(  # pyright: ignore[reportIncompatibleMethodOverride]  # xarray passes paths on as they are given
        self, filename_or_obj: str | os.PathLike, *, drop_variables: str | Iterable[str] | None = None
    ) -> xarray.DataTree:
        """All groups as a tree.

        Raises:
            StoreError: the path holds no run, or what it holds is damaged.
        """
        return xarray.DataTree.from_dict(
            self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables), name=Path(filename_or_obj).name
        )

    def open_groups_as_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, filename_or_obj: str | os.PathLike, *, drop_variables: str | Iterable[str] | None = None
    ) -> dict[str, xarray.Dataset]:
        """All groups by path; raises as `open_datatree`."""
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        groups = _groups(Path(filename_or_obj))
        return {path: group.drop_vars(dropped, errors="ignore") for path, group in groups.items()}

    def open_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        filename_or_obj: str | os.PathLike,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str = "/",
    ) -> xarray.Dataset:
        """One group, such as `episodes/task3-ep0/vlm`; raises as `open_datatree`, and where there is no such group."""
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables)
        path = f"/{group.strip('/')}"
        if path not in groups:
            raise StoreError(f"{filename_or_obj}: no group {group!r}; open_datatree shows what there is")
        return groups[path]


class _TensorOnDisk(BackendArray):
    """One tensor of one episode as float32, of which an index reads the frames, layers and denoise steps that it names."""

    def __init__(self, shards: ShardReader, episode: Episode, tensor: StoredTensor, lines: Sequence[FrameLine]):
        self.shape = (len(lines), *tensor.shape)
        self.dtype = np.dtype(np.float32)
        self._shards, self._episode, self._tensor, self._lines = shards, episode, tensor, lines

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        """`key` has a number, a slice or an array of numbers for each axis."""
        dims = ("frame", *self._tensor.dims)
        taken = {
            dim: np.atleast_1d(np.arange(n)[part]) for dim, n, part in zip(dims, self.shape, key, strict=True)
        }  # fmt: skip
        if not all(part.size for part in taken.values()):
            return _outer(np.broadcast_to(np.float32(0), self.shape), key)
        rows = {
            dim: tuple(numbers[k] for k in taken[dim].tolist()) for dim, numbers in self._tensor.numbers.items()
        }  # fmt: skip
        view = resolve(self._tensor, self._episode, rows.get("layer"), rows.get("denoise_step"), None)
        frames = tuple(FrameRef(self._episode, view, self._lines[k]) for k in taken["frame"].tolist())
        array = Selection(self._shards, view, frames).array()
        read = {"frame", *ROW_DIMS}
        left = [
            part if dim not in read else slice(None) if isinstance(part, slice | np.ndarray) else 0
            for dim, part in zip(dims, key, strict=True)
        ]
        return _outer(array, left)


def _outer(array: np.ndarray, key: Sequence[Any]) -> np.ndarray:
    """`array` with every axis indexed on its own."""
    for axis in reversed(range(len(key))):
        array = array[(*[slice(None)] * axis, key[axis])]
    return np.asarray(array)


def _groups(path: Path) -> dict[str, xarray.Dataset]:
    store = LatentStore(path)
    groups = {"/": xarray.Dataset()}
    for run in store.runs:
        base = "" if (path / RUN_FILE).is_file() else f"/{run.name}"
        groups[base or "/"] = xarray.Dataset(attrs=_run_attributes(run))
        for episode in store.episodes(run.name, attempts="all"):
            for name, group in _episode_groups(store, episode).items():
                groups[f"{base}/{EPISODES}/{episode.row.folder}{name}"] = group
    return groups


def _run_attributes(run: RunInfo) -> Mapping[str, str]:
    return {"run": run.name, "created": run.created}


def _episode_groups(store: LatentStore, episode: Episode) -> dict[str, xarray.Dataset]:
    """An episode's own group, called "", and those below it."""
    lines = episode.lines()
    columns = columns_of(lines)
    timestep = ("frame", columns.pop("timestep"))
    variables: dict[str, dict[str, Any]] = {"": {}}
    coordinates: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        group, _, last = f"/{name}".rpartition("/")
        variables.setdefault(group, {})[last] = (column_dims(name, column), column)
    for tensor_path, tensor in episode.tensors().items():
        expert, component = tensor_path.split("/")
        lazy = indexing.LazilyIndexedArray(_TensorOnDisk(store.shards, episode, tensor, lines))
        stored = {"stored_dtype": tensor.dtype}
        variables.setdefault(f"/{expert}", {})[component] = xarray.Variable(("frame", *tensor.dims), lazy, stored)
        coordinates.setdefault(f"/{expert}", {}).update(axis_coordinates(resolve(tensor, episode, None, None, None)))
    groups = {
        name: xarray.Dataset(found, {"timestep": timestep, **coordinates.get(name, {})})
        for name, found in variables.items()
    }
    groups[""].attrs.update(plain_attributes(episode))
    return groups
