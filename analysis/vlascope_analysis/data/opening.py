"""Opens what an analysis is told to read: a store, or pickles of the reference, which are imported into the cache folder first.

An import serves as long as its pickle keeps its place, its size and the time of its last change; then a new one replaces it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from vlascope_base.cache import IMPORTS, cache_folder
from vlascope_base.files import make_folders, remove, replacing
from vlascope_base.progress import tracked
from vlascope_base.text import counted, listed, printable, readable_bytes
from vlascope_latents.store import LatentStore, StoreError
from vlascope_latents.store.reference_import import import_reference
from vlascope_latents.store.run_folder import SCHEMA_VERSION, find_runs

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery

_log = logging.getLogger(__name__)


def open_store(path: Path, query: EpisodeQuery) -> LatentStore:
    """The store at a path; where pickles of the reference lie there, a store of what was imported from them.

    Args:
        path: a run, a folder of runs, a pickle, or a folder that holds no run but `task_<id>_<name>.pkl`.
        query: pickles whose names tell another task than it asks for are not imported.

    Raises:
        AnalysisError: a task that was asked for has no pickle, or the cache folder's disk has no room.
        StoreError: there is neither a run nor a pickle, or a pickle is damaged or not the reference's.
    """
    query.check()
    pickles = _pickles(path)
    if not pickles:
        return LatentStore(path)
    imports = [_Import.of(pickle) for pickle in _of_tasks(path, pickles, query)]
    missing = [wanted for wanted in imports if not wanted.folder.is_dir()]
    if missing:
        _announce(path, missing)
        for wanted in tracked(missing, "importing"):
            wanted.make()
    nbytes = sum(file.stat().st_size for done in imports for file in done.folder.rglob("*") if file.is_file())
    before = f", {len(imports) - len(missing)} of them from before" if len(missing) < len(imports) else ""
    _log.info(
        "%s: read from %s in %s%s: %s",
        printable(path), counted(len(imports), "imported pickle"), cache_folder() / IMPORTS, before, readable_bytes(nbytes),
    )  # fmt: skip
    return LatentStore(path, [done.folder for done in imports])


def _pickles(path: Path) -> list[Path]:
    if path.suffix == ".pkl" and path.is_file():
        return [path]
    try:
        find_runs(path)
    except StoreError:
        return sorted(path.glob("task_*.pkl"), key=lambda pickle: (_task(pickle) or 0, pickle.name))
    return []


def _task(pickle: Path) -> int | None:
    """The task that the name of a pickle tells."""
    found = re.fullmatch(r"task_([0-9]{1,9})(?:_.*)?", pickle.stem)
    return int(found[1]) if found else None


def _of_tasks(path: Path, pickles: Sequence[Path], query: EpisodeQuery) -> list[Path]:
    """The pickles that may hold the tasks that are asked for."""
    if query.task_range is None:
        return list(pickles)
    tasks, asked = [_task(pickle) for pickle in pickles], range(*query.task_range)
    # found out before gigabytes are imported
    gone = [] if None in tasks else [task for task in asked if task not in tasks]
    if gone and (len(gone) == len(asked) or not query.allow_missing):
        hint = "; --allow-missing takes what there is" if len(gone) < len(asked) else ""
        raise AnalysisError(f"{path}: tasks {listed(gone)} are not there; found pickles of tasks {listed(tasks)}{hint}")
    return [pickle for pickle, task in zip(pickles, tasks, strict=True) if task is None or task in asked]


@dataclasses.dataclass(frozen=True)
class _Import:
    """What is, or will be, imported from one pickle.

    Attributes:
        pickle: the reference's file.
        nbytes: of the pickle; what is stored as float32 takes about as many.
        folder: of its run; whole or absent.
        place: the part of the folder's name that tells where the pickle lies, and not what is in it.
    """

    pickle: Path
    nbytes: int
    folder: Path
    place: str

    @classmethod
    def of(cls, pickle: Path) -> _Import:
        found = pickle.stat()
        place = _digest(pickle.resolve())
        state = _digest((SCHEMA_VERSION, found.st_size, found.st_mtime_ns))
        name = re.sub(r"[^A-Za-z0-9_]", "_", pickle.stem)[:96]
        return cls(pickle, found.st_size, cache_folder() / IMPORTS / f"{name}-{place}-{state}", place)

    def make(self) -> None:
        """Imports the pickle, unless another process has done so; removes what was imported before it changed.

        Raises:
            StoreError: it is damaged or not the reference's.
            OSError: the cache folder cannot be written.
        """
        import filelock

        with filelock.FileLock(self.folder.parent / f"{self.place}.lock"):
            if self.folder.is_dir():
                return
            for old in self.folder.parent.glob(f"*-{self.place}-*"):
                remove(old)
            with replacing(self.folder) as partial:
                import_reference(self.pickle, partial)


def _announce(path: Path, missing: Sequence[_Import]) -> None:
    """Says what will be imported, and what it takes."""
    folder = cache_folder() / IMPORTS
    make_folders(folder)
    wanted, largest = sum(new.nbytes for new in missing), max(new.nbytes for new in missing)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise AnalysisError(
            f"{folder}: importing {counted(len(missing), 'pickle')} of {path} takes about {readable_bytes(wanted)}, and "
            f"{readable_bytes(free)} are free: make room, set VLASCOPE_CACHE to a folder on another disk, or name fewer tasks "
            "with --task-range"
        )
    _log.info(
        "%s: importing %s of the reference, about %s on disk, into %s; each is read whole, the largest has %s",
        printable(path), counted(len(missing), "pickle"), readable_bytes(wanted), folder, readable_bytes(largest),
    )  # fmt: skip


def _digest(value: object) -> str:
    """16 hexadecimal digits that stand for a value."""
    # a name of a file may hold bytes that are no UTF-8
    return hashlib.sha256(str(value).encode(errors="surrogateescape")).hexdigest()[:16]
