"""Puts right what a killed writer left in a run: the table in docs/store.md, row by row.

Whoever calls this holds the run's lock: no other process writes the run meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Container
from pathlib import Path

from vlascope_base.files import PARTIAL, sync

from vlascope_latents.store.durable import BlockingStore
from vlascope_latents.store.index import read_index
from vlascope_latents.store.run_folder import INDEX_FOLDER, TABLE_FILE, ZARR_FOLDER
from vlascope_latents.store.sealing import EPISODES, read_attributes, seal_episode
from vlascope_latents.store.table import EpisodeRow, read_table, write_table
from vlascope_latents.store.tensors import group_metadata

REPACK, REPLACED = ".repack", ".replaced"


@dataclasses.dataclass
class Recovery:
    """What was put right.

    Attributes:
        swept: leftover files and folders removed.
        interrupted: folders of episodes sealed as interrupted, with all their committed frames.
        rows: folders of sealed episodes that the table lacked.
    """

    swept: list[str] = dataclasses.field(default_factory=list)
    interrupted: list[str] = dataclasses.field(default_factory=list)
    rows: list[str] = dataclasses.field(default_factory=list)


def recover_run(path: Path, store: BlockingStore) -> Recovery:
    """Recovers the run at `path`.

    Raises:
        OSError: the disk did not take it; calling it again is safe.
    """
    done = Recovery()
    _sweep(path, done)
    for key in ("zarr.json", f"{EPISODES}/zarr.json"):
        if store.get(key) is None:
            store.put(key, group_metadata())
    rows = {row.folder: row for row in read_table(path / TABLE_FILE)}
    known = set(rows)
    for folder in sorted(name for name in store.list_dir(EPISODES) if name != "zarr.json" and name not in known):
        attributes = read_attributes(store, f"{EPISODES}/{folder}")
        index = path / INDEX_FOLDER / f"{folder}.jsonl"
        if attributes is None:  # the kill came while it was made: nobody was told that it exists
            discard_episode(path, store, folder)
            done.swept.append(f"{EPISODES}/{folder}")
        elif attributes["status"] == "open":
            _, length = read_index(index)
            if index.exists() and index.stat().st_size > length:
                os.truncate(index, length)
                done.swept.append(f"{INDEX_FOLDER}/{index.name}: a torn line")
            rows[folder] = seal_episode(path, store, folder, status="interrupted")
            done.interrupted.append(folder)
        else:
            rows[folder] = EpisodeRow.from_attributes(folder, attributes)
            done.rows.append(folder)
    _sweep_indices(path, {*rows, *store.list_dir(EPISODES)}, done)
    if len(rows) > len(known):
        write_table(path / TABLE_FILE, rows.values())
    return done


def _sweep_indices(path: Path, folders: Container[str], done: Recovery) -> None:
    """Removes empty index files without an episode, which would keep their ids from being opened."""
    for index in sorted((path / INDEX_FOLDER).glob("*.jsonl")):
        if index.stem not in folders and index.stat().st_size == 0:
            index.unlink()
            done.swept.append(f"{INDEX_FOLDER}/{index.name}")


def discard_episode(path: Path, store: BlockingStore, folder: str) -> None:
    """Removes every trace of an episode that was never opened.

    The index goes first: a folder without attributes is found again after a kill, an index alone is not.

    Raises:
        OSError: some of it is still there; calling it again is safe.
    """
    (path / INDEX_FOLDER / f"{folder}.jsonl").unlink(missing_ok=True)
    store.delete_folder(f"{EPISODES}/{folder}")


def _sweep(path: Path, done: Recovery) -> None:
    for parent, folders, files in os.walk(path):
        for name in files:
            if name.endswith(PARTIAL):
                os.unlink(os.path.join(parent, name))
                done.swept.append(os.path.relpath(os.path.join(parent, name), path))
        if ZARR_FOLDER in Path(parent).parts:
            for name in [name for name in folders if name.endswith((REPACK, REPLACED))]:
                finish_repack(Path(parent), name[1:].rsplit(".", 1)[0])
                done.swept.append(os.path.relpath(os.path.join(parent, name), path))
                folders.remove(name)


def finish_repack(group: Path, component: str) -> None:
    """After an interrupted repack: a whole copy takes the original's place where that is gone, else the copy goes.

    The original is moved away only once its copy is complete.
    """
    copy, original, away = group / f".{component}{REPACK}", group / component, group / f".{component}{REPLACED}"
    if copy.exists():
        if original.exists():
            shutil.rmtree(copy)
        else:
            copy.rename(original)
    if away.exists():
        shutil.rmtree(away)
    sync(group)
