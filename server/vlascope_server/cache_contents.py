"""What the cache folder holds, by kind, and how it is cleared. All of it can be made or fetched again.

Only what vlascope put there is counted as of a kind or removed: a cache folder that was set to a folder with other things in it
keeps them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import filelock
from vlascope_base import VlascopeError
from vlascope_base.cache import ASSETS, IMAGES, IMPORTS, PROGRAMS, TOKENIZER, cache_folder
from vlascope_base.files import PARTIAL

CacheKind = Literal["programs", "downloads", "images", "assets", "tokenizers", "imports"]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)

PROTOCOLS = ("gs", "gcs", "s3", "hf", "http", "https")
"""Folders of checkpoints that were downloaded."""

_LOCK_SECONDS = 5.0

_HASH = 16 * "[0-9a-f]"
"""The end of the names of folders."""


class CacheError(VlascopeError):
    """The cache folder is none, or a part of it cannot be cleared; the message says why."""


@dataclasses.dataclass(frozen=True)
class CachePart:
    """What the cache holds of one kind.

    Attributes:
        kind: which.
        what: in words.
        number: of programs, checkpoints, datasets, sets of assets, tokenizers or pickles; what is not whole is not counted.
        nbytes: of all files.
        last_use: of the file that was read or written last, as seconds since 1970; None where there is no file.
    """

    kind: CacheKind
    what: str
    number: int
    nbytes: int
    last_use: float | None


def checked_folder() -> Path:
    """The cache folder, which need not exist.

    Raises:
        CacheError: something else stands there.
    """
    folder = cache_folder()
    if folder.exists() and not folder.is_dir():
        by = "VLASCOPE_CACHE: " if os.environ.get("VLASCOPE_CACHE") else ""
        raise CacheError(
            f"{by}{folder}: expected a folder, or nothing yet, found a file: set VLASCOPE_CACHE to a folder"
        )
    return folder


def cache_parts() -> list[CachePart]:
    """What the cache folder holds, one entry for each kind."""
    parts = []
    for kind in CACHE_KINDS:
        what, count = _KINDS[kind]
        files = [_Looked.at(path) for path in _files(kind)]
        found = [file for file in files if file is not None]
        used = max((file.used for file in found), default=None)
        parts.append(CachePart(kind, what, count(cache_folder()), sum(file.nbytes for file in found), used))
    return parts


def clear(kind: CacheKind) -> int:
    """Removes everything of a kind, and returns how many bytes that were.

    Raises:
        CacheError: another process is writing it.
        OSError: a file cannot be removed.
    """
    freed = 0
    with contextlib.ExitStack() as held:
        for lock in _locks(kind):
            try:
                held.enter_context(filelock.FileLock(lock, timeout=_LOCK_SECONDS))
            except filelock.Timeout:
                raise CacheError(f"{lock.parent}: another process writes there; wait for it to end") from None
        for path in _files(kind):
            looked = _Looked.at(path)
            with contextlib.suppress(FileNotFoundError):  # another process may make room too
                path.unlink()
                freed += looked.nbytes if looked else 0
        for folder in _folders(kind):
            for below, _, _ in sorted(os.walk(folder), reverse=True):
                with contextlib.suppress(OSError):  # one that still holds a lock
                    Path(below).rmdir()
    return freed


@dataclasses.dataclass(frozen=True)
class _Looked:
    nbytes: int
    used: float

    @classmethod
    def at(cls, path: Path) -> _Looked | None:
        try:
            found = path.lstat()
        except OSError:
            return None
        return cls(found.st_size, max(found.st_atime, found.st_mtime))


def _folders(kind: CacheKind) -> list[Path]:
    """The folders that hold what is of a kind."""
    root = cache_folder()
    if kind == "downloads":
        return [root / name for name in PROTOCOLS if (root / name).is_dir()]
    if kind == "images":
        return _named(root / IMAGES, "*-[0-9]*-" + _HASH)
    if kind == "assets":
        return _named(root / ASSETS, _HASH)
    if kind == "imports":
        return [*_imported(root), *_named(root / IMPORTS, f".*-{_HASH}-{_HASH}.*{PARTIAL}")]
    return []


def _files(kind: CacheKind) -> list[Path]:
    root = cache_folder()
    if kind == "programs":
        return [*(root / PROGRAMS).glob("*-cache"), *(root / PROGRAMS).glob("*-atime")]
    if kind == "tokenizers":
        return [root / TOKENIZER] if (root / TOKENIZER).is_file() else []
    # the locks of what is imported lie beside it; one inside is part of a run
    return [file for folder in _folders(kind) for file in _walk(folder) if kind == "imports" or file.suffix != ".lock"]


def _locks(kind: CacheKind) -> list[Path]:
    """Files that whoever writes there holds."""
    root = cache_folder()
    found: Iterable[Path] = {
        "programs": (root / PROGRAMS).glob(".lockfile"),
        "assets": (root / ASSETS).glob("*.lock"),
        "imports": (root / IMPORTS).glob("*.lock"),
        "downloads": (file for folder in _folders("downloads") for file in _walk(folder) if file.suffix == ".lock"),
    }.get(kind, ())
    return list(found)


def _imported(root: Path) -> list[Path]:
    return _named(root / IMPORTS, f"[!.]*-{_HASH}-{_HASH}")


def _named(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_dir() and not path.is_symlink()]


def _walk(folder: Path) -> Iterator[Path]:
    for below, _, names in os.walk(folder):
        yield from (Path(below, name) for name in names)


def _whole_downloads(root: Path) -> int:
    markers = (file for name in PROTOCOLS for file in _walk(root / name) if file.name.startswith(".vlascope-complete"))
    return len({marker.parent for marker in markers})


_KINDS: dict[CacheKind, tuple[str, Callable[[Path], int]]] = {
    "programs": ("compiled programs", lambda root: len(list((root / PROGRAMS).glob("*-cache")))),
    "downloads": ("downloaded checkpoints", _whole_downloads),
    "images": ("datasets with resized images", lambda root: len(_folders("images"))),
    "assets": ("sets of stand-in assets", lambda root: len(_folders("assets"))),
    "tokenizers": ("tokenizers", lambda root: int((root / TOKENIZER).is_file())),
    "imports": ("imported pickles", lambda root: len(_imported(root))),
}
