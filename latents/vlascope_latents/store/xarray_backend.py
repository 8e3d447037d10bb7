"""Opens runs in xarray, where `engine="vlascope"` names them: an entry point of this package has xarray find this module.

    tree = xarray.open_datatree(run, engine="vlascope")
    tree["episodes/task3-ep0/vlm"]["hidden_states"].sel(layer=5)

The tree has the groups of the Zarr store. Other than there, bfloat16 is float32 and axes have the model's numbers and names as
coordinates; an episode that is being written shows its committed frames. Tensors are read when they are asked for, in this
process or in another one: the arrays can be pickled, and are not read by it.

Of each episode the last sealed attempt is shown, as `LatentStore.episodes` chooses it; `attempts="all"` shows every one.
xarray's own ways of decoding (`mask_and_scale` and so on) are taken and change nothing: no array is encoded in those ways.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

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
from vlascope_latents.store.selection import FrameRef, Selection, named_coordinates, resolve
from vlascope_latents.store.shard_reader import ROW_DIMS, ShardReader
from vlascope_latents.store.tensors import StoredTensor

Attempts = Literal["last", "all"]


class Decoding(TypedDict, total=False):
    """What xarray passes to every engine where its caller said anything of it."""

    mask_and_scale: bool
    decode_times: bool
    concat_characters: bool
    decode_coords: bool
    use_cftime: bool | None
    decode_timedelta: bool | None


class VlascopeBackend(BackendEntrypoint):
    """What xarray calls for `engine="vlascope"`."""

    description = "Opens vlascope's latent stores: a run, or a folder of runs"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Whether it is the folder of a run; a folder of runs has to be opened with the engine's name."""
        return isinstance(filename_or_obj, str | os.PathLike) and (Path(filename_or_obj) / RUN_FILE).is_file()

    def open_datatree(  # pyright: ignore[reportIncompatibleMethodOverride]  # xarray passes paths on as they are given
        self,
        filename_or_obj: str | os.PathLike,
        *,
        drop_variables: str | Iterable[str] | None = None,
        attempts: Attempts = "last",
        **decoding: Unpack[Decoding],
    ) -> xarray.DataTree:
        """All groups as a tree.

        Args:
            filename_or_obj: a run, or a folder of runs.
            drop_variables: names that no group shows.
            attempts: as of `LatentStore.episodes`.
            decoding: changes nothing.

        Raises:
            StoreError: the path holds no run, or what it holds is damaged.
        """
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, attempts=attempts, **decoding)
        return xarray.DataTree.from_dict(groups, name=Path(filename_or_obj).name)

    def open_groups_as_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        filename_or_obj: str | os.PathLike,
        *,
        drop_variables: str | Iterable[str] | None = None,
        attempts: Attempts = "last",
        **decoding: Unpack[Decoding],
    ) -> dict[str, xarray.Dataset]:
        """All groups by path; arguments and errors are those of `open_datatree`."""
        unknown = [name for name in decoding if name not in Decoding.__annotations__]
        if unknown:
            allowed = ", ".join(("drop_variables", "attempts", *Decoding.__annotations__))
            raise TypeError(f"engine vlascope: unknown option {unknown[0]!r}; allowed: {allowed}")
        if attempts not in get_args(Attempts):
            raise StoreError(f"attempts: expected one of {', '.join(get_args(Attempts))}, found {attempts!r}")
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        groups = _groups(Path(filename_or_obj), attempts)
        return {path: group.drop_vars(dropped, errors="ignore") for path, group in groups.items()}

    def open_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        filename_or_obj: str | os.PathLike,
        *,
        drop_variables: str | Iterable[str] | None = None,
        attempts: Attempts = "last",
        group: str = "/",
        # xarray reads off this signature what it may pass, and takes no `**` in it
        mask_and_scale: bool = True,
        decode_times: bool = True,
        concat_characters: bool = True,
        decode_coords: bool = True,
        use_cftime: bool | None = None,
        decode_timedelta: bool | None = None,
    ) -> xarray.Dataset:
        """One group, such as `episodes/task3-ep0/vlm`; raises as `open_datatree`, and where there is no such group."""
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, attempts=attempts)
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
        view = resolve(self._tensor, self._episode, rows, None)
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


def _groups(path: Path, attempts: Attempts) -> dict[str, xarray.Dataset]:
    store = LatentStore(path)
    groups = {"/": xarray.Dataset()}
    bases = {run.name: "" if (path / RUN_FILE).is_file() else f"/{run.name}" for run in store.runs}
    for run in store.runs:
        groups[bases[run.name] or "/"] = xarray.Dataset(attrs=_run_attributes(run))
    # of all runs at once: a campaign's last attempt may be in another run than the one before
    for episode in store.episodes(attempts=attempts):
        for name, group in _episode_groups(store, episode).items():
            groups[f"{bases[episode.run]}/{EPISODES}/{episode.row.folder}{name}"] = group
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
        variables.setdefault(f"/{expert}", {})[component] = xarray.Variable(("frame", *tensor.names), lazy, stored)
        coordinates.setdefault(f"/{expert}", {}).update(named_coordinates(resolve(tensor, episode, {}, None)))
    groups = {
        name: xarray.Dataset(found, {"timestep": timestep, **coordinates.get(name, {})})
        for name, found in variables.items()
    }
    groups[""].attrs.update(plain_attributes(episode))
    return groups
