"""Folders that are whole or absent: written beside the wanted one, whose name they take when all went well."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from vlascope_server.checkpoints.errors import CheckpointError


@contextlib.contextmanager
def unfinished(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends well, and goes away when not.

    Args:
        folder: must not exist, unless it is replaced.
        replace: an existing folder makes room at the end; until then, and where the block fails, it stays as it is.

    Raises:
        CheckpointError: `folder` exists.
    """
    if folder.exists() and not replace:
        raise CheckpointError(f"{folder}: exists; expected a new folder: choose another, or remove it")
    host = socket.gethostname().partition(".")[0]
    partial = _beside(folder, host)
    partial.mkdir(parents=True)
    _sweep(folder, host)
    try:
        yield partial
        before = _beside(folder, host)
        try:
            if replace and folder.exists():
                folder.rename(before)
            partial.rename(folder)
        except OSError as error:
            raise CheckpointError(f"{folder}: exists by now ({error.strerror}); choose another folder") from error
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(folder: Path, host: str) -> Path:
    """A name of its own: whatever else is called like the folder is somebody's, or another save's."""
    return folder.with_name(f"{folder.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _sweep(folder: Path, host: str) -> None:
    """Removes what saves of this folder left whose processes, on this machine, are gone."""
    ours = re.compile(rf"{re.escape(folder.name)}\.{re.escape(host)}-(\d+)-[0-9a-f]{{8}}\.partial")
    for path in folder.parent.iterdir():
        if (found := ours.fullmatch(path.name)) and not _is_running(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
