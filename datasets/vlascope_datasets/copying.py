"""Copies episodes of a dataset into another one, of the same or another version. Knows nothing of how they are chosen."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from vlascope_datasets.checksums import MOVING, add, episode_checksum, task_names
from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import inside, must_be_new
from vlascope_datasets.images import content
from vlascope_datasets.info import COLLECTIONS, DatasetInfo, new_info
from vlascope_datasets.layouts.episodes import VideoSpan
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.statistics import ImageStatistics, Statistics, column_statistics, sampled_frames
from vlascope_datasets.video import extract
from vlascope_datasets.writer import DatasetWriter


@dataclasses.dataclass(frozen=True)
class Copied:
    """What was copied.

    Attributes:
        episodes: numbers in the source, in the order of the copy.
        frames: of them all.
        checksum: of them all, as read from the source and found again in the copy.
        encoded_again: source numbers of episodes whose video could not be taken over; their video is in no checksum.
    """

    episodes: tuple[int, ...]
    frames: int
    checksum: int
    encoded_again: tuple[int, ...]


def copy_episodes(
    source: LeRobotDataset, episodes: Iterable[int], path: Path, version: str, on_episode: Callable[[], None] = lambda: None
) -> Copied:  # fmt: skip
    """Makes a dataset of some episodes: numbers made anew, columns, images and encoded video taken over as they are, and the
    record of how it was collected where there is one.

    Args:
        source: the dataset.
        episodes: numbers in it, in the order of the copy.
        path: a folder that is absent or empty.
        version: `v2.1` or `v3.0`.
        on_episode: called after each.

    Raises:
        DatasetError: a file of the source is missing, or `path` holds something.
        DamagedError: a file of the source is not what it should be, an episode holds no frames or an instruction that is not
            listed, or the copy is not what was read.
    """
    must_be_new(path, "destination")
    episodes, again, sums = tuple(episodes), [], []
    for number in episodes:
        if source.episode(number).length < 1:
            file = source.root / source.episode(number).file
            raise DamagedError(
                f"{file}: episode {number} holds no frames; remove it from the dataset, or record it again"
            )
    kept = source.episode_statistics()
    with DatasetWriter.begin(path, _info(source.info, version)) as writer:
        for number in episodes:
            how = _copy(source, number, kept.get(number), writer)
            if "encoded again" in how:
                again.append(number)
            sums.append(episode_checksum(source, number, videos="encoded again" not in how))
            on_episode()
    copy = LeRobotDataset.open(path)
    for place, (number, expected) in enumerate(zip(episodes, sums, strict=True)):
        if episode_checksum(copy, place, videos=number not in again) != expected:
            raise DamagedError(f"{path}: episode {place} is not what was read: episode {number} of {source.root}")
    if (source.root / COLLECTIONS).is_file():
        shutil.copyfile(source.root / COLLECTIONS, path / COLLECTIONS)
    return Copied(episodes, len(copy), add(sums), tuple(again))


def _info(info: DatasetInfo, version: str) -> DatasetInfo:
    """Of the copy: the source's features, untouched; its sizes of files where the version has them."""
    return dataclasses.replace(
        new_info(version, info.fps, info.robot_type, info.features),
        chunks_size=info.chunks_size,
        data_files_size_in_mb=info.data_files_size_in_mb,
        video_files_size_in_mb=info.video_files_size_in_mb,
    )


def _copy(source: LeRobotDataset, number: int, known: Statistics | None, writer: DatasetWriter) -> set[str]:
    """Copies one episode; says how its videos were made."""
    table, episode, how = source.table(number), source.episode(number), set()
    statistics = {key: values for key, values in (known or {}).items() if key not in MOVING}
    for key, feature in source.info.features.items():
        if key in MOVING:
            continue
        if key in source.info.camera_keys:
            statistics[key] = statistics.get(key) or _camera_statistics(source, number, key)
            continue
        values = source.values(number, key, table[key])
        if feature["dtype"] != "string":
            # v2.1 keeps no quantiles, which v3.0 has
            statistics[key] = column_statistics(values) | statistics.get(key, {})

    def video(span: VideoSpan) -> Callable[[Path], None]:
        def write(target: Path) -> None:
            file = inside(source.root, span.file)
            how.add(extract(file, target, span.start, episode.length, source.info.fps, alone=span.alone))

        return write

    writer.add_stored(_embedded(source, table, number), task_names(source, number, table), {
        key: video(span) for key, span in episode.videos.items()
    }, statistics)  # fmt: skip
    return how


def _embedded(source: LeRobotDataset, table: pa.Table, number: int) -> pa.Table:
    """The table with images that are files put into it: the copy stands alone."""
    for key in source.info.image_keys:
        cells = table[key].to_pylist()
        if all(isinstance(cell, dict) and cell.get("bytes") for cell in cells):
            continue
        where = f"{source.root / source.episode(number).file}: episode {number}, {key}"
        images = [
            {"bytes": content(cell, source.root, where), "path": Path((cell or {}).get("path") or "").name}
            for cell in cells
        ]
        table = table.set_column(table.column_names.index(key), key, pa.array(images))
    return table


def _camera_statistics(source: LeRobotDataset, number: int, key: str) -> dict[str, np.ndarray]:
    statistics = ImageStatistics()
    frames = sampled_frames(source.episode(number).length)
    for begin in range(0, len(frames), 32):
        for image in source.images(number, key, frames[begin : begin + 32]):
            statistics.add(image)
    return statistics.result()
