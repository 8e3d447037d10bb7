"""`meta/info.json`: what a dataset says of itself."""

from __future__ import annotations

import dataclasses
import functools
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from vlascope_datasets.errors import DamagedError, DatasetError, VersionError
from vlascope_datasets.features import Features, cameras, columns, stored_as, unread
from vlascope_datasets.files import read_json
from vlascope_datasets.records import InfoRecord, checked_record

WRITTEN = ("v2.1", "v3.0")
READ = ("v2.0", *WRITTEN)
INFO = "meta/info.json"
COLLECTIONS = "collections.jsonl"
"""Beside a simulated dataset: how each part of it was collected, such as how images were drawn."""
_DERIVED = "total_videos", "total_chunks", "splits"
COUNTS = "total_episodes", "total_frames", "total_tasks"
_PATHS = {
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
_PATHS["v2.0"] = _PATHS["v2.1"]
_PLACES = {
    "v2.0": {"episode_chunk": 0, "episode_index": 0},
    "v2.1": {"episode_chunk": 0, "episode_index": 0},
    "v3.0": {"chunk_index": 0, "file_index": 0},
}
"""What a path is made of, beside `video_key`."""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `meta/info.json` holds.

    Attributes:
        version: `codebase_version`: the format, one of `READ`.
        fps: frames a second.
        robot_type: None where it does not say.
        features: by column; see `features`.
        total_episodes, total_frames, total_tasks: counts. What is beyond them in a file was never committed.
        chunks_size: episodes (v2) or files (v3) in one folder.
        data_path, video_path: how files are named.
        data_files_size_in_mb, video_files_size_in_mb: v3: when a new file is begun.
        uncounted: counts that the file does not give; an opened dataset has counted them, and none is left.
        others: fields that only their writer knows; they are kept.
    """

    version: str
    fps: float
    robot_type: str | None
    features: Features
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = 1000
    data_path: str = ""
    video_path: str | None = None
    data_files_size_in_mb: float = 100
    video_files_size_in_mb: float = 200
    uncounted: tuple[str, ...] = ()
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def columns(self) -> list[str]:
        """Features that are read as numbers or text."""
        return columns(self.features)

    @functools.cached_property
    def image_keys(self) -> list[str]:
        """Features whose images lie in the table, depth maps among them."""
        return stored_as(self.features, "image")

    @functools.cached_property
    def video_keys(self) -> list[str]:
        """Features whose images lie in video files, depth maps among them."""
        return stored_as(self.features, "video")

    @functools.cached_property
    def camera_keys(self) -> list[str]:
        """Every camera whose images are read: in colour or grey, eight bits a channel."""
        return cameras(self.features)

    @functools.cached_property
    def unread(self) -> dict[str, str]:
        """Features that are carried over as they are stored, and never read: why, by column."""
        return unread(self.features)

    def to_map(self) -> dict[str, Any]:
        """As it is written to `meta/info.json`."""
        common = dict(self.others) | {
            "codebase_version": self.version,
            "robot_type": self.robot_type,
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
        }
        if self.version.startswith("v2"):
            common |= {
                "total_videos": self.total_episodes * len(self.video_keys),
                "total_chunks": -(-self.total_episodes // self.chunks_size),
                "chunks_size": self.chunks_size,
            }
        else:
            common |= {
                "chunks_size": self.chunks_size,
                "data_files_size_in_mb": self.data_files_size_in_mb,
                "video_files_size_in_mb": self.video_files_size_in_mb,
            }
        return common | {
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{self.total_episodes}"} if self.total_episodes else {},
            "data_path": self.data_path,
            "video_path": self.video_path,
            "features": self.features,
        }


def new_info(version: str, fps: float, robot_type: str | None, features: Features, **limits: Any) -> DatasetInfo:
    """Of a dataset that is still empty.

    Raises:
        DatasetError: a version that is not written, or no frame rate.
    """
    if version not in WRITTEN:
        raise DatasetError(f"version: {version!r} is not written; use {' or '.join(WRITTEN)}")
    if not fps > 0:
        raise DatasetError(f"fps: expected frames a second above 0, found {fps}")
    data_path, video_path = _PATHS[version]
    # v2.1 loaders expect the template even where there are no videos to name
    named = video_path if version == "v2.1" or stored_as(features, "video") else None
    return DatasetInfo(version, fps, robot_type, features, data_path=data_path, video_path=named, **limits)


def info_from_map(raw: object, path: Path) -> DatasetInfo:
    """What `meta/info.json` at `path` says.

    Raises:
        VersionError: a version that is not read.
        DamagedError: a field is missing or of another type; the message names it.
    """
    if not isinstance(raw, dict) or "codebase_version" not in raw:
        raise DamagedError(f"{path}: lacks codebase_version: no LeRobot dataset")
    version = _version(raw["codebase_version"], path)
    record = checked_record(InfoRecord, raw, str(path))
    features: Features = {key: {**raw["features"][key]} for key in record.features}
    data_path, video_path = _PATHS[version]
    stored = stored_as(features, "video")
    return DatasetInfo(
        version,
        float(record.fps),
        record.robot_type,
        features,
        *(getattr(record, name) or 0 for name in COUNTS),
        chunks_size=record.chunks_size,
        data_path=_template("data_path", record.data_path or data_path, version, path),
        video_path=_template("video_path", record.video_path or video_path, version, path)
        if stored
        else record.video_path,
        data_files_size_in_mb=float(record.data_files_size_in_mb),
        video_files_size_in_mb=float(record.video_files_size_in_mb),
        uncounted=tuple(name for name in COUNTS if getattr(record, name) is None),
        others={name: value for name, value in (record.model_extra or {}).items() if name not in _DERIVED},
    )


def _version(found: Any, path: Path) -> str:
    """The one of `READ` that `found` names: "3.0" and "v3.0" are the same version.

    Raises:
        VersionError: it is none of them.
    """
    try:
        version = Version(found)
    except (InvalidVersion, TypeError):
        raise VersionError(f"{path}: version {found!r} is none; {', '.join(READ)} are read") from None
    for name in READ:
        if Version(name) == version:
            return name
    newer = version > Version(READ[-1])
    remedy = "a newer vlascope may" if newer else "convert it with LeRobot's own scripts first"
    raise VersionError(f"{path}: version {found} is not read ({', '.join(READ)} are); {remedy}")


def _template(name: str, template: str, version: str, path: Path) -> str:
    """A path of `info.json`, whose fields are those that the version has.

    Raises:
        DamagedError: it has other ones, or is none.
    """
    allowed = _PLACES[version] | ({"video_key": ""} if name == "video_path" else {})
    try:
        parts = [(field, spec or "") for _, field, spec, _ in string.Formatter().parse(template) if field is not None]
        if all(field in allowed and re.fullmatch(r"(0?\d{1,2}d?)?|d", spec) for field, spec in parts):
            template.format(**allowed)
            return template
    except (ValueError, KeyError, IndexError):
        pass
    known = ", ".join(f"{{{field}}}" for field in allowed)
    raise DamagedError(f"{path}: {name}: expected a path made with {known}, found {template!r}")


def read_info(root: Path) -> DatasetInfo:
    """Of the dataset in the folder `root`.

    Raises:
        DatasetError: it is no dataset; the message says what was looked for.
    """
    path = root / INFO
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if not path.is_file():
        raise DatasetError(f"{root}: no LeRobot dataset: {INFO} is missing")
    return info_from_map(read_json(path), path)
