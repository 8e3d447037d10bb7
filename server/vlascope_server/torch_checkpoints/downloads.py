"""Says what a file or folder is that looks like a checkpoint and is none: a download cut short, a lock, a pointer, a web page.

What the Hugging Face hub's client leaves behind:

- in a folder of one's own (`local_dir`): `.cache/huggingface/download/PATH/FILE.lock`, which stays for ever, after a download
  that went well too, and `....ETAG.incomplete`, which holds the bytes that came so far;
- in its cache: `models--OWNER--NAME/blobs/ETAG.incomplete`, `.locks/models--OWNER--NAME/ETAG.lock`, and below
  `snapshots/` links to blobs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from vlascope_base.files import below
from vlascope_base.text import counted, readable_bytes

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
PRETRAINED = ("robovlms/RoboVLMs", "checkpoints/kosmos_ph_oxe-pretrain.pt")
"""Repository on the hub of RoboVLMs' pretrained checkpoint, and the file: the repository holds others of as many gigabytes."""
_HUB = (".cache", "huggingface", "download")
_DEEPEST, _MOST_SEEN = 8, 20_000
"""Folders inside of each other, and files, that are looked at for what downloads left: below `/` there may be millions."""
_TAR = (257, b"ustar")


def refuse_unfinished(path: Path) -> None:
    """Raises `TorchCheckpointError` where `path` is not a whole file that may be a checkpoint; the message says what it is."""
    if path.is_dir():
        raise TorchCheckpointError(f"{path}: a folder; {what_is_in(path)}")
    if path.name.endswith(LOCK):
        raise TorchCheckpointError(
            f"{path}: a lock file{' of a download' * _is_of_hub(path)}, which holds no weights and may stay behind; name the"
            " file itself, or download it"
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
    """A clause about what unfinished downloads left in a folder; None where they left nothing.

    That is a file `.incomplete`, or one of the hub's locks whose own file never came. A lock alone proves nothing: other
    programs have such files too, and the hub's stay behind.
    """
    found = below(folder, deepest=_DEEPEST, most=_MOST_SEEN)
    left = [p for p in found if (p.name.endswith(INCOMPLETE) or _is_lock_of_none(p)) and p.is_file()]
    if not left:
        return None
    parts = [path for path in left if path.name.endswith(INCOMPLETE)]
    locks = [path for path in left if path.name.endswith(LOCK)]
    named = [path for path in locks if path.name.removesuffix(LOCK).endswith(SUFFIXES)]
    of = f" of {', '.join(path.name.removesuffix(LOCK) for path in named[:3])}" if named else ""
    again = _again((named or left)[0])
    if not parts:
        only = counted(len(locks), "lock file")
        return f"a download{of} by the Hugging Face hub was begun, and no byte of it is here, only {only}: {again}"
    came = readable_bytes(sum(path.stat().st_size for path in parts))
    return f"a download{of} by the Hugging Face hub never finished: {len(parts)} unfinished ({came} so far): {again}"


def _is_lock_of_none(path: Path) -> bool:
    """Whether a file is a lock of the hub's client, in one of its own folders, whose download is not there."""
    if not path.name.endswith(LOCK):
        return False
    name, parents = path.name.removesuffix(LOCK), path.parents
    if (root := _local_root(path)) is not None:
        return not (root / path.relative_to(root.joinpath(*_HUB)).with_name(name)).exists()
    if len(parents) > 2 and parents[1].name == ".locks":
        return not (parents[2] / parents[0].name / "blobs" / name).exists()
    return False


def _is_of_hub(lock: Path) -> bool:
    return _local_root(lock) is not None or ".locks" in lock.parts


def _local_root(path: Path) -> Path | None:
    """The `--local-dir` of a download among whose leavings a file is; None where it is among none."""
    for folder in path.parents:
        if folder.parts[-3:] == _HUB:
            return folder.parents[2]
    return None


def _missing(path: Path) -> str:
    if path.is_symlink():
        return (
            f"{path}: a link to {path.readlink()}, which is not there: the hub's cache was cleared, or the download"
            f" never finished: {_again(path)}"
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
    """What to do about an unfinished download that left `path`, or was to end there."""
    parts, (repository, pretrained) = path.parts, PRETRAINED
    goes_on = "which goes on where it stopped"
    for index in range(len(parts) - 1, -1, -1):
        if found := re.fullmatch(r"models--(.+?)--(.+)", parts[index]):
            name, inside = f"{found[1]}/{found[2]}", parts[index + 1 :]
            file = "/".join(inside[2:]) if inside[:1] == ("snapshots",) else ""
            file = file or (pretrained if name == repository else "")
            which = "" if file else ", with FILE the one that is meant"
            return f"repeat it with `hf download {name} {shlex.quote(file) if file else 'FILE'}`{which}, {goes_on}"
    ours = Path(pretrained)
    if path.name.removesuffix(LOCK) == ours.name:
        root = _local_root(path) or (path.parent.parent if path.parent.name == ours.parent.name else path.parent)
        return f"repeat it with `hf download {repository} {pretrained} --local-dir {shlex.quote(str(root))}`, {goes_on}"
    return f"repeat the download, {goes_on} if it is the hub's"


def _size(path: Path) -> str:
    return readable_bytes(path.stat().st_size) if path.is_file() else "nothing"
