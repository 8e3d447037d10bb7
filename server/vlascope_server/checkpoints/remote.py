"""Brings a remote checkpoint into the local cache: gs://, s3://, hf://, http(s)://, and whatever else fsspec reads.

1. A checkpoint lands in `$VLASCOPE_CACHE` (default `~/.cache/vlascope`) under its address; a list of its files, written
   last, says that it is whole. A whole one is used without asking the remote side again; one of a vlascope that kept no
   checksums is compared with the remote side once, and used with a warning where that cannot be asked.
2. A file grows as `<name>.<version>.partial` and is renamed when complete. Whatever ends a download, the next one
   continues where it stopped; where the server cannot, or the file has changed, it starts that file over.
3. A file is what the place says it is: its checksum, where the place gives one (`checksums.py`), else its size. One that is
   not goes, and the download with it.
4. One process downloads, others wait for it. The lock belongs to the process, not to the lock file: one left behind
   blocks nobody.
5. Names come from the remote side and are not trusted: a name that would leave the checkpoint's folder is refused.

Parameters are taken with what says how to use them; the optimiser's state is left behind.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import logging
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from vlascope_base.cache import cache_folder
from vlascope_base.text import readable_bytes

from vlascope_server.checkpoints.checksums import Checksum, checksum_of
from vlascope_server.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
_BESIDE = (
    "assets/*", "vlascope.json", "config.json", "norm_stats.json", "tokenizer.model",
    "policy_preprocessor*.json", "policy_preprocessor*.safetensors",
    "policy_postprocessor*.json", "policy_postprocessor*.safetensors",
)  # fmt: skip
"""What lies beside parameters, and belongs to a safetensors file that was named itself."""
_PARAMETERS = (
    "params/*", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors",
    "_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt", "array_metadatas/*", "d/*", "ocdbt.process_*/*",
)  # fmt: skip
"""Parameters: of a step folder, and of a `params/` folder under another name."""
_BLOCK = 16 << 20
"""Bytes asked for at once."""
_VERSION_KEYS = ("etag", "ETag", "md5Hash", "crc32c", "blob_id", "mtime", "Last-Modified", "LastModified", "created")

_log = logging.getLogger(__name__)


class _UnavailableError(CheckpointError):
    """The place cannot be asked, or has no such checkpoint any more."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL rather than a path."""
    return "://" in location and not location.startswith("file://")


def fetch(url: str) -> Path:
    """The local copy of a remote checkpoint, downloaded where it is not there yet.

    Args:
        url: of a step folder, its `params/`, or its safetensors file. fsspec's own settings apply, for example
            `FSSPEC_GS_TOKEN=anon`.

    Returns:
        The local path that stands for `url`.

    Raises:
        CheckpointError: the package for this kind of place is missing, it cannot be reached, nothing is there, the connection
            broke, or a file that came is not what the place says it is.
    """
    root, given = _split(url.rstrip("/"))
    target = _cache_path(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(f"{target.name}.lock"), root):
        said = _whole(_marker(target, given))
        if said is None or "checksums" not in said:
            try:
                _download(root, given, target)
            except _UnavailableError as error:
                if said is None:
                    raise
                _log.warning(
                    "%s; the copy in %s is used: its files have their sizes, their checksums are not known",
                    error,
                    target,
                )
    return target / given if given else target


def _split(url: str) -> tuple[str, str]:
    """The checkpoint's folder, and the part of it that was named."""
    parent, _, last = url.rpartition("/")
    return (parent, last) if last == "params" or last.endswith(".safetensors") else (url, "")


def _cache_path(url: str) -> Path:
    protocol, _, path = url.partition("://")
    parts = [urllib.parse.quote(part, safe=" ._-") for part in path.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise CheckpointError(f"{url}: expected <protocol>://<place>/<folder>, with no '..' in it")
    return cache_folder().joinpath(protocol, *parts)


def _lock(path: Path, url: str) -> filelock.AcquireReturnProxy:
    lock = filelock.FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.info("%s: waiting for another process that downloads it", url)
        return lock.acquire()


def _marker(target: Path, given: str) -> Path:
    """The list of files that says that this much of a checkpoint is whole."""
    return target / f".vlascope-complete{'-' + given if given.endswith('.safetensors') else ''}.json"


def _whole(marker: Path) -> dict[str, Any] | None:
    """What a marker says, where every file that it lists is there with its size; None where not."""
    try:
        said = json.loads(marker.read_text(encoding="utf-8"))
        there = all((marker.parent / name).stat().st_size == size for name, size in said["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return said if there else None


def _download(url: str, given: str, target: Path) -> None:
    filesystem, path = _connect(url)
    # every backend raises errors of its own kinds (aiohttp's, botocore's, gcsfs's), so all of them end here
    try:
        files = _list(filesystem, url, path, given)
        checksums = {name: checksum_of(filesystem, info) for name, info in files.items()}
    except CheckpointError:
        raise
    except Exception as error:
        raise _UnavailableError(
            f"{url}: cannot be reached ({type(error).__name__}: {_brief(error)}): check the address and the network"
        ) from error
    try:
        have = {name: target / name for name in files}
        missing = {n: i for n, i in files.items() if not _is_there(have[n], i["size"], checksums[n])}
        total = sum(info["size"] or 0 for info in missing.values())
        _log.info("%s: %d files, %s to download to %s", url, len(missing), readable_bytes(total), target)
        if bare := sum(checksum is None for checksum in checksums.values()):
            _log.warning("%s: no checksum is given for %d of %d files: their sizes are checked", url, bare, len(files))
        with _progress(url, total) as advance:
            for name, info in missing.items():
                _download_file(filesystem, info, checksums[name], have[name], advance)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{url}: the download broke off ({type(error).__name__}: {_brief(error)});"
            f" run it again, it continues from what is in {target}"
        ) from error
    sizes = {name: (target / name).stat().st_size for name in files}
    said = {name: str(checksum) for name, checksum in checksums.items() if checksum}
    content = {"url": url, "files": sizes, "checksums": said}
    # half of it says nothing, and what is left of a temporary file would be taken for half a download
    _marker(target, given).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _is_there(path: Path, size: int | None, checksum: Checksum | None) -> bool:
    """Whether a file is here already, as the place has it now."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    return checksum is None or checksum.of(path) == checksum


def _connect(url: str) -> tuple[AbstractFileSystem, str]:
    protocol = url.partition("://")[0]
    package = _PACKAGES.get(protocol, "fsspec")
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise _UnavailableError(
            f"{url}: reading {protocol}:// needs the package {package}: pip install {package}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{url}: {_brief(error)}; expected gs://, s3://, hf://, http:// or https://") from error


def _list(filesystem: AbstractFileSystem, url: str, path: str, given: str) -> dict[str, Mapping[str, Any]]:
    """Relative name -> facts about the remote file, of those that make a checkpoint."""
    try:
        # a listing's own facts may lack the size (http), so each wanted file is asked for
        found = filesystem.find(path)
    except FileNotFoundError:
        found = []
    if not found:  # also what some backends say of a place that does not answer
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            filesystem.ls(path)
    # all names are looked at before any is used
    names = {name: remote for remote in found if (name := _relative(url, path, remote)) is not None}
    parameters = _matching(names, (given,) if given.endswith(".safetensors") else _PARAMETERS)
    wanted = [*parameters, *_matching(names, _BESIDE)]
    if not parameters:
        raise _UnavailableError(
            f"{url}: expected a checkpoint with params/ or model.safetensors; found"
            f" {', '.join(sorted(names)[:5]) or 'nothing'}: check the address, or name the folder of one step"
        )
    return {name: {**filesystem.info(names[name]), "remote": names[name]} for name in wanted}


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _relative(url: str, root: str, remote: str) -> str | None:
    """A listed file's name below the checkpoint, or None where it lies elsewhere (a web page links to anything)."""
    if not remote.startswith(root.rstrip("/") + "/"):
        return None
    name = urllib.parse.unquote(remote[len(root.rstrip("/")) + 1 :])
    if any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in name.split("/")):
        raise CheckpointError(
            f"{url}: the file name {name!r} would leave the cache folder; this place is not to be trusted"
        )
    return name


def _download_file(
    filesystem: AbstractFileSystem,
    info: Mapping[str, Any],
    checksum: Checksum | None,
    target: Path,
    advance: Callable[[int], None],
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    version = [str(info[key]) for key in _VERSION_KEYS if info.get(key)]
    tag = hashlib.sha256(repr((info["size"], version[:1])).encode()).hexdigest()[:8]
    partial = target.with_name(f"{target.name}.{tag}.partial")
    for stale in target.parent.glob(f"{target.name}.*.partial"):
        if stale != partial:
            stale.unlink()
    partial.touch()
    try:
        _append(filesystem, info["remote"], partial, advance, block_size=_BLOCK, cache_type="none")
    except ValueError as error:
        # fsspec's way to say that the server knows no ranges: take the file in one go
        _log.info("%s: no resuming here (%s)", info["remote"], _brief(error))
        advance(-partial.stat().st_size)
        partial.write_bytes(b"")
        _append(filesystem, info["remote"], partial, advance, block_size=0)
    if info["size"] is not None and partial.stat().st_size != info["size"]:
        raise OSError(f"{target.name}: expected {info['size']} bytes, got {partial.stat().st_size}")
    if checksum and (found := checksum.of(partial)) != checksum:
        partial.unlink()
        raise CheckpointError(
            f"{info['remote']}: came with {found}, expected {checksum} as the place says: it was damaged on its way, or changed"
            " meanwhile; it is deleted: run it again"
        )
    partial.replace(target)


def _append(filesystem: Any, remote: str, partial: Path, advance: Callable[[int], None], **options: object) -> None:
    """Continues `partial` to the end of the remote file."""
    offset = partial.stat().st_size
    with filesystem.open(remote, "rb", **options) as source, partial.open("ab") as file:
        if offset:
            source.seek(offset)
            advance(offset)
        while block := source.read(_BLOCK):
            file.write(block)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _progress(url: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, nothing in a log; gives the function that moves it by a number of bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(url, total=total or None)
        yield lambda count: bar.advance(task, count)


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
