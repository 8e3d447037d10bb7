"""Episodes in formats that need no decoding: plain Zarr, NetCDF through xarray, and NPZ in the nested layout of the
reference's pickles. All of them hold float32; docs/store.md describes them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.reader import LatentStore
from vlascope_latents.store.sealing import column_dims, columns_of
from vlascope_latents.store.tensors import ROW_DIMS

_SHARED = ("denoise_step", "horizon", "action")
"""Axes of one expert alone, which need not say whose they are."""


def export_netcdf(store: LatentStore, episode: Episode, path: Path) -> None:
    """Writes one episode as a NetCDF 4 file; all of it passes through memory, as float32."""
    import xarray

    variables: dict[str, Any] = {}
    for tensor_path, tensor in episode.tensors().items():
        expert, component = tensor_path.split("/")
        data = store.select(expert, component, episodes=[episode]).to_xarray()
        data = data.drop_vars([name for name in data.coords if name not in (*ROW_DIMS, "timestep")])
        # the experts differ in tokens, width and captured layers; the flow's axes and steps belong to one
        called = zip(tensor.dims, tensor.names, strict=True)
        data = data.rename({dim: f"{expert}_{name}" for dim, name in called if name not in _SHARED})
        variables[f"{expert}_{component}"] = data
    for name, column in columns_of(episode.lines()).items():
        if name != "timestep":
            flat = name.replace("/", "_")
            dims = ["frame", *(f"{flat}_{axis}" for axis in range(1, column.ndim))]
            variables[flat] = (dims, column.astype(np.uint8) if column.dtype == bool else column)
    attributes = {_netcdf(name) or "(no name)": _netcdf(value) for name, value in plain_attributes(episode).items()}
    xarray.Dataset(variables, attrs=attributes).to_netcdf(path, engine="h5netcdf")


def _netcdf(value: Any) -> Any:
    """A value as NetCDF takes it for an attribute, which has neither bools nor great numbers, and whose text has no NUL.

    Stores of an older vlascope, and those that something else wrote, may hold such.
    """
    if isinstance(value, str):
        return value.replace("\0", "\\x00")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return int(value) if isinstance(value, bool) else value


def plain_attributes(episode: Episode) -> dict[str, str | bool | int | float]:
    """What is known of an episode and is one text or number, or yes or no; `success` is bool where somebody said it."""
    # what the store says of it stands above what a client said beside it under the same name
    attributes = {**episode.metadata, "episode": episode.id, "status": episode.status}
    attributes.pop("success", None)
    if episode.success is not None:
        attributes["success"] = episode.success
    return {key: value for key, value in attributes.items() if isinstance(value, str | bool | int | float)}


def export_zarr(store: LatentStore, episode: Episode, path: Path) -> None:
    """Writes one episode as a Zarr v3 group, a frame at a time: the store's groups and arrays, but float32.

    `layer` and `denoise_step` hold the model's numbers along the axes of that name.
    """
    lines = episode.lines()
    columns = columns_of(lines)
    tensors = episode.tensors()
    group = zarr.open_group(path, mode="w", attributes=dict(episode.attributes()))
    for name in sorted({name.split("/")[0] for name in (*columns, *tensors) if "/" in name}):
        group.create_group(name)
    for name, column in columns.items():
        group.create_array(name, data=column, dimension_names=column_dims(name, column))
    for tensor_path, tensor in tensors.items():
        expert, component = tensor_path.split("/")
        array = group.create_array(
            tensor_path, shape=(len(lines), *tensor.shape), chunks=(1, *tensor.shape), dtype="float32",
            dimension_names=("frame", *tensor.names), attributes={**tensor.attributes, "dtype": "float32"},
        )  # fmt: skip
        selection = store.select(expert, component, episodes=[episode])
        for number in range(len(lines)):
            array[number] = selection[number : number + 1].array()[0]
        called = dict(zip(tensor.dims, tensor.names, strict=True))
        for dim, numbers in tensor.numbers.items():
            if f"{expert}/{called[dim]}" not in group:
                data = np.array(numbers, np.int64)
                group.create_array(f"{expert}/{called[dim]}", data=data, dimension_names=(called[dim],))


def export_npz(store: LatentStore, episode: Episode, path: Path) -> None:
    """Writes one episode as NPZ, a frame at a time; float32, no pickle."""
    base = f"episodes/{episode.row.folder}"
    metadata = episode.metadata
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:

        def put(key: str, value: object) -> None:
            with file.open(f"{key}.npy", "w", force_zip64=True) as target:
                np.lib.format.write_array(target, np.asarray(value), allow_pickle=False)

        put("task_name", str(metadata.get("task_name") or ""))
        task_id = metadata.get("task_id")
        put("task_id", -1 if task_id is None else int(task_id))
        for key, name in (("task_description", "instruction"), ("task_instruction", "task_instruction")):
            if isinstance(metadata.get(name), str):
                put(key, metadata[name])
        if episode.success is not None:
            put(f"{base}/metadata/success", episode.success)
        if episode.row.total_steps is not None:
            put(f"{base}/metadata/total_steps", episode.row.total_steps)
        selections = {path: store.select(*path.split("/"), episodes=[episode]) for path in episode.tensors()}
        columns = columns_of(episode.lines())
        for number, timestep in enumerate(columns["timestep"].tolist()):
            step = f"{base}/rollout_steps/step_{timestep}"
            put(f"{step}/timestep", timestep)
            if "actions" in columns:
                put(f"{step}/action", columns["actions"][number])
            for tensor_path, selection in selections.items():
                expert, component = tensor_path.split("/")
                frame = selection[number : number + 1].array(workers=1)[0]
                batch = 1 if "layer" in selection.dims else 0
                if "denoise_step" not in selection.dims:
                    group = "vlm_layer_output" if expert == "vlm" else f"{expert}_output"
                    put(f"{step}/{group}/{component}", np.expand_dims(frame, batch))
                    continue
                for k, part in zip(selection.coordinates["denoise_step"], frame, strict=True):
                    put(f"{step}/{expert}_expert_hidden_state_t{k}/{component}", np.expand_dims(part, batch))
