"""Closes an episode for good: small values become arrays, arrays get exactly the committed length, the group its verdict.

A writer that is done closes it so, and a recovery after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.provenance import now
from vlascope_base.text import short, why_unkept

from vlascope_latents.store.durable import BlockingStore
from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.index import FrameLine, decode_value, read_index
from vlascope_latents.store.run_folder import INDEX_FOLDER
from vlascope_latents.store.table import EpisodeRow
from vlascope_latents.store.tensors import StoredTensor, column_metadata, group_metadata

EPISODES = "episodes"
RESERVED = frozenset(
    {
        *(
            "id",
            "run",
            "campaign",
            "episode",
            "attempt",
            "status",
            "success",
            "total_steps",
            "timestep",
            "frame",
            "frames",
        ),
        *(
            "suite",
            "task_id",
            "task_name",
            "instruction",
            "task_instruction",
            "episode_index",
            "init_state",
            "seed",
            "metadata",
        ),
        *("folder", "experts", "capture_spec", "bytes", "dropped", "dropped_timesteps", "sealed_at"),
    }
)
"""Names that the store has for something of its own: what is said at an episode's end has others."""


def seal_episode(
    run: Path,
    store: BlockingStore,
    folder: str,
    *,
    status: str,
    success: bool | None = None,
    total_steps: int | None = None,
    metadata: Mapping[str, object] | None = None,
    dropped_timesteps: Sequence[int] = (),
) -> EpisodeRow:
    """Seals the episode in `folder` with the frames of its index, and returns its row for the table.

    Everything but the last step can be done again after a kill; the last, the group's attributes, is the seal. `metadata`, as
    `check_said_at_end` lets it pass, is part of that step: a kill leaves all of it or none.

    Raises:
        OSError: the disk did not take it; the episode is still open.
    """
    lines, _ = read_index(run / INDEX_FOLDER / f"{folder}.jsonl")
    base = f"{EPISODES}/{folder}"
    for tensor in read_tensors(store, folder):
        for name in store.list_dir(f"{base}/{tensor.path}"):
            if name.startswith("c.") and int(name.split(".")[1]) >= len(lines):
                store.delete(f"{base}/{tensor.path}/{name}")
        store.put(f"{base}/{tensor.path}/zarr.json", tensor.metadata(len(lines)))
    for name, content in column_files(lines).items():
        store.put(f"{base}/{name}", content)

    attributes = read_attributes(store, base) or {}
    dropped = max([len(dropped_timesteps), *(line.dropped for line in lines[-1:])])
    attributes |= {
        "status": status,
        "success": success,
        "total_steps": total_steps,
        "metadata": {**attributes.get("metadata", {}), **(metadata or {})},
        "frames": len(lines),
        "bytes": sum(line.nbytes for line in lines),
        "dropped": dropped,
        "dropped_timesteps": list(dropped_timesteps),
        "sealed_at": now(),
    }
    store.put(f"{base}/zarr.json", group_metadata(attributes))
    return EpisodeRow.from_attributes(folder, attributes)


def check_said_at_end(metadata: Mapping[str, object], begun: Mapping[str, object]) -> None:
    """Refuses what cannot be kept of an episode's end beside what is kept of its beginning.

    Args:
        metadata: said at the end.
        begun: said at the beginning.

    Raises:
        StoreError: a name is the store's own or was said at the beginning, or as `check_metadata`.
    """
    check_metadata(metadata)
    for name in metadata:
        if name in begun or name in RESERVED:
            whose = "the episode began with one" if name in begun else "the store has one of its own"
            raise StoreError(f"metadata: {name!r} is taken: {whose}; expected another name")


def check_metadata(metadata: Mapping[str, object]) -> None:
    """Refuses what the store, or an export of it, cannot keep of an episode.

    Raises:
        StoreError: a name is empty or no text, a value is no JSON, or a text in it holds NUL or what UTF-8 cannot write.
    """
    for name in metadata:
        if not isinstance(name, str) or not name:
            raise StoreError(f"metadata: expected names of text, at least one character each, found {name!r}")
    try:
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"metadata: expected JSON ({error})") from error
    rest: list[object] = [metadata]
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            rest += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            rest += value
        elif isinstance(value, str) and (why := why_unkept(value)):
            raise StoreError(f"metadata: {short(value)}: expected text that UTF-8 can write, without NUL, {why}")


def read_attributes(store: BlockingStore, key: str) -> dict[str, Any] | None:
    """Attributes of the group or array at `key`; None where there is no node."""
    content = store.get(f"{key}/zarr.json")
    return None if content is None else json.loads(content)["attributes"]


def read_tensors(store: BlockingStore, folder: str) -> list[StoredTensor]:
    """The captured arrays of an episode."""
    tensors = []
    for group in (read_attributes(store, f"{EPISODES}/{folder}") or {}).get("experts", ()):
        for component in store.list_dir(f"{EPISODES}/{folder}/{group}"):
            content = store.get(f"{EPISODES}/{folder}/{group}/{component}/zarr.json")
            if content is not None and not component.startswith("."):
                tensors.append(StoredTensor.from_metadata(f"{group}/{component}", json.loads(content)))
    return tensors


def columns_of(lines: Sequence[FrameLine]) -> dict[str, np.ndarray]:
    """The small values of the frames, one array a name, first axis `frame`."""
    columns = {"timestep": np.array([line.timestep for line in lines], "<i8")}
    if lines:
        for name in lines[0].values:
            columns[name] = np.stack([decode_value(line.values[name]) for line in lines])
    return columns


def column_files(lines: Sequence[FrameLine]) -> dict[str, bytes]:
    """The files that hold the small values of a sealed episode, by name within its group: arrays of one chunk each."""
    columns, files = columns_of(lines), {}
    for group in sorted({name.split("/")[0] for name in columns if "/" in name}):
        files[f"{group}/zarr.json"] = group_metadata()
    for name, column in columns.items():
        chunk = ".".join(["c", *["0"] * column.ndim])
        if column.size:
            files[f"{name}/{chunk}"] = column.astype(column.dtype.newbyteorder("<")).tobytes()
        files[f"{name}/zarr.json"] = column_metadata(column, column_dims(name, column))
    return files


def column_dims(name: str, column: np.ndarray) -> tuple[str, ...]:
    """Names of the axes of a column: `frame`, and then axes that no other column has."""
    return ("frame", *(f"{name.split('/')[-1]}_{axis}" for axis in range(1, column.ndim)))
