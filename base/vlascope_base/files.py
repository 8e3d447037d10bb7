"""Files and folders that are whole or absent, whatever ends the process, and on disk when a function returns."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlascope_base.errors import VlascopeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

PARTIAL = ".partial"
"""The end of the name of whatever is not finished. What a killed process leaves ends in it, and no reader takes it."""


def replace_file(path: Path, content: Buffer | str) -> None:
    """Puts `content` at `path`: at any moment the file holds all of the old content or all of the new.

    Args:
        path: in a folder that exists.
        content: bytes or any contiguous buffer; text is written as UTF-8.

    Raises:
        OSError: it could not be written; no file is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    temporary = partial_path(path)
    # the folder is opened first: where descriptors have run out, nothing has been renamed yet
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            try:
                write_all(descriptor, content)
                sync_data(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_json(path: Path, content: object, *, indent: int | None = 2) -> None:
    """Replaces `path` with JSON.

    Raises:
        TypeError: `content` holds something that JSON has no word for.
        ValueError: it holds a number that is not finite.
        OSError: it could not be written.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode(errors="backslashreplace"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """For a library that writes a file or a folder by itself: it writes to the path that this yields.

    When the block ends, what it wrote is synced and takes the place of `path`; when the block raises, it is removed. An
    existing folder is not replaced (`os.replace` refuses one that is not empty).

    Raises:
        OSError: the result could not be put in its place; nothing is left behind.
    """
    temporary = partial_path(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        remove(temporary)


def partial_path(path: Path) -> Path:
    """A path beside `path` that no other process uses, hidden and with `PARTIAL` at its end."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")


def append_line(path: Path, content: object) -> None:
    """Appends one line of JSON and syncs it. A process that is killed meanwhile leaves at most a last line cut short."""
    # half a surrogate pair, which a name of a file may hold, is written as JSON's own escape
    line = (json.dumps(content, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        write_all(descriptor, line)
        sync_data(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: Buffer) -> None:
    """Writes every byte of `content`: `os.write` may write fewer than it is given."""
    view = memoryview(content).cast("B")
    done = 0
    while done < len(view):
        done += os.write(descriptor, view[done:])


sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def sync(path: Path) -> None:
    """Makes a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Makes `path` and the folders above it that are missing, and syncs each."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    sync(path.parent)


def refuse_file(folder: Path, option: str) -> None:
    """Raises `VlascopeError` where `folder`, or a folder above it, is a file, so that no folder can be made there.

    Args:
        folder: that results are to go to.
        option: that named it.
    """
    for part in (folder, *folder.parents):
        if part.exists():
            if not part.is_dir():
                raise VlascopeError(
                    f"{option} {folder}: expected a folder, and {part} is a file; choose another folder"
                )
            return


def why_unwritable(path: Path) -> str | None:
    """What keeps a file or folder from being made at an absolute path; None where nothing does."""
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        return f"{above} is no folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"{above} is not writable"


def below(folder: Path, *, deepest: int, most: int) -> Iterator[Path]:
    """Files and folders below a folder, the nearest first and by name; links and what cannot be read are not entered.

    Args:
        folder: to search.
        deepest: folders inside of each other that are entered.
        most: paths that are yielded: below `/` there may be millions.
    """
    rest, seen = deque([(folder, 0)]), 0
    while rest:
        here, depth = rest.popleft()
        try:
            with os.scandir(here) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        for name, is_folder in found:
            seen += 1
            if seen > most:
                return
            if is_folder and depth < deepest:
                rest.append((here / name, depth + 1))
            yield here / name


def local(path: str | Path) -> Path:
    """A path in which `~` stands for a user's home folder.

    Raises:
        VlascopeError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise VlascopeError(f"{path}: the home folder of this user is not known; write the whole path") from None


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it, as far as that can be done; it need not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
