"""`meta/info.json`: what a dataset says of itself. Knows nothing of episodes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from vlascope_datasets.errors import DamagedError, DatasetError, VersionError
from vlascope_datasets.features import Features, cameras, columns
from vlascope_datasets.files import read_json

WRITTEN = ("v2.1", "v3.0")
READ = ("v2.0", *WRITTEN)
INFO = "meta/info.json"
COLLECTIONS = "collections.jsonl"
"""Beside a simulated dataset: how each part of it was collected, such as how images were drawn."""
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


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `meta/info.json` holds.

    Attributes:
        version: `codebase_version`: the format, for example `v2.1`.
        fps: frames a second.
        robot_type: None where it does not say.
        features: by column; see `features`.
        total_episodes, total_frames, total_tasks: counts. What is beyond them in a file was never committed.
        chunks_size: episodes (v2) or files (v3) in one folder.
        data_path, video_path: how files are named.
        data_files_size_in_mb, video_files_size_in_mb: v3: when a new file is begun.
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

    @property
    def columns(self) -> list[str]:
        """Features that are numbers or text."""
        return columns(self.features)

    @property
    def image_keys(self) -> list[str]:
        """Cameras whose images lie in the table."""
        return cameras(self.features, "image")

    @property
    def video_keys(self) -> list[str]:
        """Cameras whose images lie in video files."""
        return cameras(self.features, "video")

    @property
    def camera_keys(self) -> list[str]:
        """Every camera."""
        return cameras(self.features)

    def to_map(self) -> dict[str, Any]:
        """As it is written to `meta/info.json`."""
        common = {
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
    named = video_path if version == "v2.1" or cameras(features, "video") else None
    return DatasetInfo(version, fps, robot_type, features, data_path=data_path, video_path=named, **limits)


def info_from_map(raw: Any, path: Path) -> DatasetInfo:
    """What `meta/info.json` at `path` says.

    Raises:
        VersionError: a version that is not read.
        DamagedError: a field is missing or of another type; the message names it.
    """
    try:
        version = str(raw["codebase_version"])
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path}: lacks codebase_version: no LeRobot dataset") from error
    if version not in READ:
        numbers = [int(n) for n in re.findall(r"\d+", version)[:2]]
        newer = numbers > [3, 0]
        remedy = "a newer vlascope may" if newer else "convert it with LeRobot's own scripts first"
        raise VersionError(f"{path}: version {version} is not read ({', '.join(READ)} are); {remedy}")
    try:
        features = {
            str(key): {**value, "shape": [int(n) for n in value["shape"]]} for key, value in raw["features"].items()
        }
        known = {"dtype", "shape"}
        for key, feature in features.items():
            if not known <= set(feature):
                raise DamagedError(f"{path}: feature {key} lacks {', '.join(sorted(known - set(feature)))}")
        return DatasetInfo(
            version,
            float(raw["fps"]),
            raw.get("robot_type"),
            features,
            int(raw["total_episodes"]),
            int(raw["total_frames"]),
            int(raw.get("total_tasks", 0)),
            int(raw.get("chunks_size", 1000)),
            str(raw["data_path"]),
            raw.get("video_path"),
            float(raw.get("data_files_size_in_mb", 100)),
            float(raw.get("video_files_size_in_mb", 200)),
        )
    except KeyError as error:
        raise DamagedError(f"{path}: lacks {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DamagedError(f"{path}: not as LeRobot writes it ({error})") from error


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
