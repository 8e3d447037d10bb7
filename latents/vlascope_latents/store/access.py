"""Who may read folders that hold latents: their owner alone, unless somebody says otherwise.

Hidden states of a policy that sees a home or a workshop tell of it, as its pictures do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ReadableBy = Literal["owner", "group", "everyone"]
_MODES: dict[ReadableBy, int] = {"owner": 0o700, "group": 0o750, "everyone": 0o755}


def make_folder(path: Path, readable_by: ReadableBy) -> None:
    """Makes a folder that its owner may write, and they may read, and whatever folders are missing above it.

    Raises:
        FileExistsError: something is there.
        OSError: it cannot be made.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_MODES["owner"])
    if readable_by != "owner":
        path.chmod(_MODES[readable_by])  # whatever the umask: somebody asked for it


def make_missing_folder(path: Path, readable_by: ReadableBy) -> None:
    """`make_folder` where there is none; one that is there stays as it is."""
    try:
        make_folder(path, readable_by)
    except FileExistsError:  # perhaps only just, by somebody else
        if not path.is_dir():
            raise
