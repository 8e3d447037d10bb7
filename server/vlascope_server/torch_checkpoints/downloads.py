"""Says what a file or folder is that looks like a checkpoint and is none: a download cut short, a lock, a pointer, a web page.

What the Hugging Face hub's client leaves behind:

- in a folder of one's own (`local_dir`): `.cache/huggingface/download/PATH/FILE.lock`, which stays for ever, and
  `....ETAG.incomplete`, which holds the bytes that came so far;
- in its cache: `models--OWNER--NAME/blobs/ETAG.incomplete`, `.locks/models--OWNER--NAME/ETAG.lock`, and below
  `snapshots/` links to blobs.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlascope_base.text import readable_bytes

from vlascope_server.torch_checkpoints.archive import ZIP_MAGIC, bytes_expected
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""Endings of files that may hold weights."""
INCOMPLETE, LOCK = ".incomplete", ".lock"
_PARTS = (INCOMPLETE, ".partial", ".part", ".crdownload", ".aria2")
_LFS = b"version https://git-lfs.github.com/spec/v1"
_ZIP_END = b"PK\x05\x06"
_LONGEST_ZIP_END = 22 + (1 << 16)
"""Bytes of a zip's last record, with the longest comment."""
_TAR = (257, b"ustar")


def refuse_unfinished(path: Path) -> None:
    """Raises `TorchCheckpointError` where `path` is not a whole file that may be a checkpoint; the message says what it is."""
    if path.is_dir():
        raise TorchCheckpointError(f"{path}: a folder; {what_is_in(path)}")
    if path.name.endswith(LOCK):
        raise TorchCheckpointError(
            f"{path}: a lock file of a download, which holds no weights and may stay behind; name the file itself, or"
            " download it"
        )
    if path.name.endswith(_PARTS):
        raise TorchCheckpointError(f"{path}: an unfinished download ({_size(path)} so far): {_again(path)}")
    if not path.exists():
        raise TorchCheckpointError(_missing(path))
    if not path.is_file():
        raise TorchCheckpointError(f"{path}: no file; expected a checkpoint")
    with path.open("rb") as file:
        begins = file.read(512)
    if not begins:
        raise TorchCheckpointError(
            f"{path}: an empty file: its download never began, or the disk was full: {_again(path)}"
        )
    if begins.startswith(_LFS):
        size = re.search(rb"^size (\d{1,18})$", begins, re.MULTILINE)
        whole = f" of the {readable_bytes(int(size[1]))}" if size else ""
        raise TorchCheckpointError(
            f"{path}: a Git LFS pointer, which stands in place{whole} of the file: run `git lfs install` and `git lfs"
            " pull` in its"
            " repository, or download the file"
        )
    if begins.lstrip()[:1] == b"<":
        raise TorchCheckpointError(
            f"{path}: a web page instead of a checkpoint; it may ask for a login: download the file again, with a"
            " token if it needs one"
        )
    if begins[_TAR[0] :].startswith(_TAR[1]):
        raise TorchCheckpointError(
            f"{path}: a tar archive; PyTorch before 0.1.10 wrote those: unpack it if it holds a checkpoint, else load"
            " and save it with torch"
        )
    if begins.startswith(ZIP_MAGIC) and not _has_end(path):
        raise TorchCheckpointError(f"{path}: cut short: {_cut(path)}: {_again(path)}")


def what_is_in(folder: Path) -> str:
    """A clause that says what in a folder could be inspected, or why nothing can."""
    files = checkpoint_files(folder)
    if files:
        names = ", ".join(file.relative_to(folder).as_posix() for file in files[:6])
        return f"name the file that is meant: {names}{', …' if len(files) > 6 else ''}"
    return unfinished_in(folder) or f"it holds no file that ends in {', '.join(SUFFIXES)}"


def checkpoint_files(folder: Path) -> list[Path]:
    """Files in a folder, or in the folder `checkpoints` in it, that may hold weights."""
    found = [path for part in (folder, folder / "checkpoints") if part.is_dir() for path in part.iterdir()]
    return sorted(path for path in found if path.suffix in SUFFIXES and path.is_file())


def unfinished_in(folder: Path) -> str | None:
    """A clause about what unfinished downloads left in a folder; None where they left nothing."""
    left = [path for path in sorted(folder.rglob("*")) if path.name.endswith((LOCK, INCOMPLETE)) and path.is_file()]
    if not left:
        return None
    parts = [path for path in left if path.name.endswith(INCOMPLETE)]
    locks = [path.name for path in left if path.name.endswith(LOCK)]
    came = readable_bytes(sum(path.stat().st_size for path in parts))
    said = f"{len(parts)} unfinished ({came} so far)" if parts else "none begun"
    names = [name.removesuffix(LOCK) for name in locks if name.removesuffix(LOCK).endswith(SUFFIXES)]
    of = f" of {', '.join(names[:3])}" if names else ""
    return f"a download{of} by the Hugging Face hub never finished: {said}, lock files {len(locks)}: {_again(left[0])}"


def _missing(path: Path) -> str:
    if path.is_symlink():
        return (
            f"{path}: a link to {path.readlink()}, which is not there: the hub's cache was cleared, or the download"
            " never finished:"
            f" {_again(path)}"
        )
    for folder in path.parents:
        begun = folder / ".cache" / "huggingface" / "download"
        if begun.is_dir():
            inside = begun / path.relative_to(folder).parent
            if inside.is_dir() and (said := unfinished_in(inside)):
                return f"{path}: not there: {said}"
        if folder.name == "snapshots" and (said := unfinished_in(folder.parent)):
            return f"{path}: not there: {said}"
    parts = [*path.parent.glob(f"{path.name}.*")] if path.parent.is_dir() and not set(path.name) & set("*?[") else []
    begun = [part.name for part in parts if part.name.endswith(_PARTS)]
    if begun:
        return f"{path}: not there, but {begun[0]} is beside it: a download that never finished: {_again(path)}"
    return f"{path}: no such file; expected a checkpoint: check the path"


def _cut(path: Path) -> str:
    size, expected = path.stat().st_size, bytes_expected(path)
    here = f"{size:,} bytes are here, and the end of the zip is not among them"
    return here if expected is None else f"{here}; the tensors that its first part lists have {expected:,} bytes alone"


def _has_end(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _LONGEST_ZIP_END))
        return _ZIP_END in file.read()


def _again(path: Path) -> str:
    repository = next(
        (found for part in path.parts[::-1] if (found := re.fullmatch(r"models--(.+?)--(.+)", part))), None
    )
    if repository:
        return f"repeat it with `hf download {repository[1]}/{repository[2]}`, which goes on where it stopped"
    return "repeat the download, which goes on where it stopped if it is the hub's"


def _size(path: Path) -> str:
    return readable_bytes(path.stat().st_size) if path.is_file() else "nothing"
