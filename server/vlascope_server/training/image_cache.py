"""A dataset's images at the model's size: on disk, decoded once and read one by one, or decoded each time.

Runs over the same dataset share what is on disk, whichever episodes they use. A dataset's folder remembers where the dataset
lies; those of datasets that are gone are removed when a run begins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from vlascope_base.files import make_folders, remove, replace_json, replacing
from vlascope_base.text import printable, readable_bytes
from vlascope_datasets import LeRobotDataset

from vlascope_server.robots.images import resize_with_pad
from vlascope_server.training.options import TrainingError

_DATASET_FILE = "dataset.json"
"""Says in a dataset's folder of images where the dataset lies."""

_log = logging.getLogger(__name__)


class ImageCache:
    """Resized images of some episodes; any number of threads may `gather`.

    Attributes:
        folder: where they lie; None decodes them each time.
    """

    def __init__(self, dataset: LeRobotDataset, cameras: Mapping[str, str], size: int, folder: Path | None):
        """Decodes nothing yet.

        Args:
            dataset: whose images.
            cameras: model slot -> the dataset's camera.
            size: the model's, in pixels.
            folder: of all caches; a folder in it is this dataset's, and grows with it.
        """
        self._dataset, self._cameras, self._size = dataset, dict(cameras), size
        self.folder = None if folder is None else folder / _name(dataset, size)
        self._paths: dict[tuple[str, int], Path] = {}
        self._lock = threading.Lock()

    def missing_bytes(self, episodes: Sequence[int]) -> int:
        """Bytes that `fill` will write."""
        missing = [number for number in episodes for c in self._cameras.values() if not self._is_there(c, number)]
        frames = sum(self._dataset.episode(number).length for number in missing)
        return 0 if self.folder is None else frames * self._size * self._size * 3

    def fill(self, episodes: Sequence[int]) -> Iterator[int]:
        """Decodes and resizes what is not there yet; an episode is whole or absent, so that a killed run loses one.

        Args:
            episodes: their numbers; yields each once it is there.

        Raises:
            TrainingError: the disk has no room for it.
            DatasetError: an image is missing or damaged.
        """
        if self.folder is None:
            return
        sweep_images(self.folder.parent)
        wanted = self.missing_bytes(episodes)
        make_folders(self.folder)
        if not (self.folder / _DATASET_FILE).is_file():
            replace_json(self.folder / _DATASET_FILE, {"dataset": str(self._dataset.root.resolve())})
        free = shutil.disk_usage(self.folder).free
        if wanted > free:
            raise TrainingError(
                f"{self.folder}: resized images take {readable_bytes(wanted)}, the disk has {readable_bytes(free)} free:"
                " make room, set VLASCOPE_CACHE to another disk, or train with --no-cache-images"
            )
        for number in episodes:
            for camera in self._cameras.values():
                if not self._is_there(camera, number):
                    self._write(camera, number)
            yield number

    def gather(
        self, episodes: Int[np.ndarray, " n"], frames: Int[np.ndarray, " n"]
    ) -> dict[str, UInt8[np.ndarray, "n size size 3"]]:
        """Images by model slot, one for each pair of episode and frame."""
        pairs = list(zip(episodes.tolist(), frames.tolist(), strict=True))
        return {slot: np.stack([self._image(c, e, f) for e, f in pairs]) for slot, c in self._cameras.items()}

    def _image(self, camera: str, episode: int, frame: int) -> np.ndarray:
        if self.folder is None:
            return resize_with_pad(self._dataset.image(episode, frame, camera), self._size)
        path = self._paths.get((camera, episode))
        if path is None:
            path = self._paths[camera, episode] = self._path(camera, episode)
        try:
            return _read_one(path, frame)
        except (ValueError, FileNotFoundError):  # a power cut left half of it, or somebody cleared the cache
            with self._lock:
                self._write(camera, episode)
            return _read_one(path, frame)

    def _path(self, camera: str, episode: int) -> Path:
        return (self.folder or Path()) / camera / f"episode_{episode:06d}-{self._source(camera, episode)}.npy"

    def _source(self, camera: str, number: int) -> str:
        """Of where an episode's images come from, as it looks from outside: changed there, they are resized anew."""
        episode = self._dataset.episode(number)
        span = episode.videos.get(camera)
        # which frame of a video belongs to a row is in the row
        names = [episode.file] if span is None else [span.file, episode.file]
        files = [self._dataset.root / name for name in names]
        found = [file.stat() if file.is_file() else None for file in files]
        where = episode.first_row if span is None else [span.start, self._dataset.tolerance_s]
        looks = [[[each and each.st_size, each and each.st_mtime_ns] for each in found], where, episode.length]
        return hashlib.sha256(json.dumps(looks).encode()).hexdigest()[:12]

    def _is_there(self, camera: str, episode: int) -> bool:
        return self.folder is not None and self._path(camera, episode).is_file()

    def _write(self, camera: str, episode: int) -> None:
        path = self._path(camera, episode)
        images = resize_with_pad(self._dataset.images(episode, camera), self._size)
        make_folders(path.parent)
        with replacing(path) as partial:
            with partial.open("wb") as file:
                np.save(file, np.ascontiguousarray(images), allow_pickle=False)
            for stale in path.parent.glob(f"episode_{episode:06d}-*.npy"):
                stale.unlink(missing_ok=True)


def sweep_images(folder: Path) -> None:
    """Removes images of datasets that are no longer where they were.

    Args:
        folder: of all caches. One that does not say whose images it holds stays.
    """
    for file in folder.glob(f"*/{_DATASET_FILE}"):
        try:
            dataset = json.loads(file.read_text(encoding="utf-8"))["dataset"]
            gone = not Path(dataset).exists()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if gone:
            _log.info("%s: this dataset is gone; its resized images are removed", printable(dataset))
            remove(file.parent)


def _name(dataset: LeRobotDataset, size: int) -> str:
    """Readable, and another one for each place of a dataset and size."""
    root = dataset.root.resolve()
    return f"{root.name}-{size}-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"


def _read_one(path: Path, frame: int) -> np.ndarray:
    """One image of an episode's file. Nothing stays open: a dataset has more episodes than a process may have files."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.seek(frame * math.prod(shape[1:]) * dtype.itemsize, os.SEEK_CUR)
        return np.fromfile(file, dtype, math.prod(shape[1:])).reshape(shape[1:])
