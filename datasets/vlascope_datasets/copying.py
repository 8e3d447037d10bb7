"""Copies episodes of a dataset into another one, of the same or another version."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from vlascope_base.progress import Progress, silent

from vlascope_datasets.checksums import MOVING, add, episode_checksum, task_names
from vlascope_datasets.errors import DamagedError, DatasetError, UnreadError
from vlascope_datasets.features import INDEX_FEATURES
from vlascope_datasets.files import inside, must_be_new
from vlascope_datasets.images import column, content
from vlascope_datasets.info import COLLECTIONS, DatasetInfo, new_info
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.statistics import ImageStatistics, Statistics, column_statistics, go_together, sampled_frames
from vlascope_datasets.video import extract
from vlascope_datasets.writer import DatasetWriter

_KNOWN = {
    *("info.json", "stats.json", "tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl", "tasks.parquet"),
    *("convert.json", "split.json"),
}
"""Files in `meta/` that a copy gets anew."""
PACKAGES = ("vlascope-datasets", "av", "numpy", "pyarrow")
"""Whose versions are written beside what was made of a dataset."""


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


def without(source: LeRobotDataset, dropped: Sequence[int] = (), *, empty: bool = False) -> list[int]:
    """The episodes that are left.

    Args:
        source: the dataset.
        dropped: numbers of episodes to leave out.
        empty: whether those without frames are left out too.

    Raises:
        DatasetError: an episode that there is not, or none is left.
    """
    for number in dropped:
        source.episode(number)
    kept = [e.index for e in source.episodes if e.index not in set(dropped) and (e.length or not empty)]
    if not kept and source.episodes:
        raise DatasetError(f"{source.root}: none of its {len(source.episodes)} episodes would be left")
    return kept


def copy_episodes(
    source: LeRobotDataset, episodes: Sequence[int], path: Path, version: str, progress: Progress = silent
) -> Copied:
    """Makes a dataset of some episodes: numbers made anew, columns, images and encoded video taken over as they are, and the
    record of how it was collected where there is one. What is not read is taken over all the same; an episode without frames
    stays one.

    Args:
        source: the dataset.
        episodes: numbers in it, in the order of the copy.
        path: a folder that is absent or empty.
        version: `v2.1` or `v3.0`.
        progress: called after each.

    Raises:
        DatasetError: a file of the source is missing, or `path` holds something.
        DamagedError: a file of the source is not what it should be, an episode holds an instruction that is not listed, or the
            copy is not what was read.
    """
    must_be_new(path, "destination")
    episodes, again, sums = tuple(episodes), [], []
    kept = source.episode_statistics()
    with DatasetWriter.begin(path, _info(source.info, version)) as writer:
        for number in episodes:
            how = _copy(source, number, kept.get(number), writer)
            if "encoded again" in how:
                again.append(number)
            sums.append(episode_checksum(source, number, videos="encoded again" not in how))
            progress("copying episodes", len(sums), len(episodes))
    copy = LeRobotDataset.open(path, tolerance_s=source.tolerance_s)
    for place, (number, expected) in enumerate(zip(episodes, sums, strict=True)):
        if episode_checksum(copy, place, videos=number not in again) != expected:
            raise DamagedError(f"{path}: episode {place} is not what was read: episode {number} of {source.root}")
    for name in (COLLECTIONS, *_others(source)):
        if (source.root / name).is_file():
            shutil.copyfile(source.root / name, path / name)
    return Copied(episodes, len(copy), add(sums), tuple(again))


def _others(source: LeRobotDataset) -> list[str]:
    """Files of metadata that only their writer knows, such as the names of subtasks."""
    folder = source.root / "meta"
    return sorted(f"meta/{path.name}" for path in folder.iterdir() if path.is_file() and path.name not in _KNOWN)


def _info(info: DatasetInfo, version: str) -> DatasetInfo:
    """Of the copy: the source's features, untouched; its sizes of files where the version has them."""
    return dataclasses.replace(
        new_info(version, info.fps, info.robot_type, INDEX_FEATURES | info.features),
        chunks_size=info.chunks_size,
        data_files_size_in_mb=info.data_files_size_in_mb,
        video_files_size_in_mb=info.video_files_size_in_mb,
        others=info.others,
    )


def _copy(source: LeRobotDataset, number: int, known: Statistics | None, writer: DatasetWriter) -> set[str]:
    """Copies one episode; says how its videos were made."""
    table, episode, how = source.table(number), source.episode(number), set()
    statistics = {key: values for key, values in (known or {}).items() if key not in MOVING} if episode.length else {}
    for key, feature in (INDEX_FEATURES | source.info.features).items():
        if key in MOVING or key in source.info.unread or not episode.length:
            continue
        shape, stored = (3, 1, 1), statistics.pop(key, {})
        made: dict[str, np.ndarray] = {}
        if key not in source.info.camera_keys:
            values = source.values(number, key, table[key])
            if feature["dtype"] == "string":
                continue
            made = column_statistics(values)
            shape = made["mean"].shape
        if not go_together([stored], shape):
            stored = made or _camera_statistics(source, number, key)
        if stored:
            # v2.1 keeps no quantiles, which v3.0 has
            statistics[key] = made | stored

    def video(key: str) -> Callable[[Path], None]:
        def write(target: Path) -> None:
            span = episode.videos[key]
            times, tolerance = source.video_times(number, key)
            file, again = inside(source.root, span.file), key not in source.info.unread
            how.add(extract(file, target, span.start, times, source.info.fps, tolerance, again=again))

        return write

    tasks = task_names(source, number, table) or episode.tasks
    videos = {key: video(key) for key in episode.videos if episode.length}
    writer.add_stored(_embedded(source, table, number), tasks, videos, statistics)
    return how


def _embedded(source: LeRobotDataset, table: pa.Table, number: int) -> pa.Table:
    """The table with images that are files put into it: the copy stands alone."""
    for key in source.info.image_keys:
        kind, cells = table.schema.field(key).type, table[key].to_pylist()
        parts = {field.name for field in kind} if pa.types.is_struct(kind) else set()
        if {"bytes", "path"} <= parts and all(cell and cell["bytes"] for cell in cells):
            continue
        where = f"{source.root / source.episode(number).file}: episode {number}, {key}"
        try:
            encoded = [content(cell, source.root, where) for cell in cells]
        except DamagedError:
            if key in source.info.unread:  # only its writer knows what an empty cell means
                continue
            raise
        names = [Path((isinstance(cell, dict) and cell.get("path")) or "").name for cell in cells]
        table = table.set_column(table.column_names.index(key), key, column(encoded, names))
    return table


def _camera_statistics(source: LeRobotDataset, number: int, key: str) -> dict[str, np.ndarray]:
    """Empty for images that turn out not to be read."""
    statistics = ImageStatistics()
    frames = sampled_frames(source.episode(number).length)
    try:
        for begin in range(0, len(frames), 32):
            for image in source.images(number, key, frames[begin : begin + 32]):
                statistics.add(image)
    except UnreadError:
        return {}
    return statistics.result()
