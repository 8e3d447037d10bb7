"""Episodes in formats of others: NetCDF through xarray, and NPZ in the nested layout of the reference's pickles.

The formats are described in docs/store.md.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.reader import LatentStore
from vlascope_latents.store.sealing import columns_of


def export_netcdf(store: LatentStore, episode: Episode, path: Path) -> None:
    """Writes one episode as a NetCDF 4 file; all of it passes through memory, as float32."""
    import xarray

    variables: dict[str, Any] = {}
    for tensor_path in episode.tensors():
        expert, component = tensor_path.split("/")
        data = store.select(expert, component, episodes=[episode]).to_xarray()
        data = data.drop_vars([name for name in data.coords if name not in ("layer", "denoise_step", "timestep")])
        # the experts differ in tokens, width and captured layers
        data = data.rename(
            {dim: f"{expert}_{dim}" for dim in data.dims if dim in ("token", "feature", "layer", "span")}
        )
        if "mlp_feature" in data.dims:
            data = data.rename({"mlp_feature": f"{expert}_mlp_feature"})
        variables[f"{expert}_{component}"] = data
    for name, column in columns_of(episode.lines()).items():
        if name != "timestep":
            flat = name.replace("/", "_")
            dims = ["frame", *(f"{flat}_{axis}" for axis in range(1, column.ndim))]
            variables[flat] = (dims, column.astype(np.uint8) if column.dtype == bool else column)
    # what the store says of it stands above what a client said beside it under the same name
    attributes = {**episode.metadata, "episode": episode.id, "status": episode.status}
    attributes.pop("success", None)
    if episode.success is not None:
        attributes["success"] = int(episode.success)
    kept = {key: value for key, value in attributes.items() if isinstance(value, str | int | float)}
    xarray.Dataset(variables, attrs=kept).to_netcdf(path, engine="h5netcdf")


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
                if expert == "vlm":
                    put(f"{step}/vlm_layer_output/{component}", frame[:, None])
                    continue
                for k, part in zip(selection.coordinates["denoise_step"], frame, strict=True):
                    batched = part[None] if component in ("x_t", "v_t") else part[:, None]
                    put(f"{step}/action_expert_hidden_state_t{k}/{component}", batched)
