"""A dataset's JSON, where its folders may lie, and who may write to them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlascope_base.files import make_folders, replace_file, sync

from vlascope_datasets.errors import DamagedError, DatasetError


def move(source: Path, target: Path) -> None:
    """Puts a finished file or folder in its place: synced, then renamed."""
    sync(source)
    make_folders(target.parent)
    os.replace(source, target)
    sync(target.parent)


def write_json(path: Path, content: object) -> None:
    """Replaces `path` in one step, as LeRobot writes JSON: a number that JSON has no word for (NaN) is as Python writes it."""
    make_folders(path.parent)
    replace_file(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DatasetError: it is missing.
        DamagedError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: no JSON ({error})") from error


def read_lines(path: Path) -> list[Any]:
    """A file of JSON lines; a last line that was not written to its end is left out.

    Raises:
        DatasetError: it is missing.
        DamagedError: another line is no JSON; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: no text ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise DamagedError(f"{path}: line {number} is no JSON ({error})") from error
    return found


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused where that leaves `root`: file names come out of files that others wrote."""
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts:
        raise DamagedError(f"{root}: names a file outside of itself: {relative}")
    return root / path


def must_be_new(path: Path, what: str) -> None:
    """Raises DatasetError unless `path` is absent or an empty folder."""
    if path.exists() and not path.is_dir():
        raise DatasetError(f"{path}: exists and is no folder; choose another {what}")
    if path.is_dir() and any(path.iterdir()):
        raise DatasetError(f"{path}: exists and is not empty; choose another {what}, or remove it")


def must_be_outside(path: Path, source: Path) -> None:
    """Raises DatasetError where `path` lies inside of the folder `source`, which is read."""
    if path.resolve().is_relative_to(source.resolve()):
        raise DatasetError(f"{path}: lies inside of the source; choose a folder beside it")


def must_fit(path: Path, needed: int) -> None:
    """Raises DatasetError where fewer than `needed` bytes are free on the disk that `path`, there or not, lies on."""
    there = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < needed:
        raise DatasetError(f"{path}: needs about {needed} bytes, {free} are free; free some, or choose another disk")


def folder_bytes(path: Path) -> int:
    """Bytes of every file under `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file `path` against other processes; DatasetError where one has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(f"{path.parent.parent}: another process writes to it") from error
        yield
