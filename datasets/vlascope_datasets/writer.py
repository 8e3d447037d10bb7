"""Writes LeRobot datasets of format v2.1 and v3.0, an episode at a time, each whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from vlascope_datasets import images as pictures
from vlascope_datasets.errors import DamagedError, DatasetError
from vlascope_datasets.features import INDEX_FEATURES, Feature, checked, complete, from_arrow, schema, to_arrow
from vlascope_datasets.files import locked, must_be_new, read_json
from vlascope_datasets.info import INFO, DatasetInfo, info_from_map, new_info, read_info
from vlascope_datasets.statistics import ImageStatistics, Statistics, column_statistics, sampled_frames
from vlascope_datasets.versions import read_v2, read_v3
from vlascope_datasets.versions.prepared import FRESH, STAGING, Prepared
from vlascope_datasets.versions.write_v2 import WriterV2
from vlascope_datasets.versions.write_v3 import WriterV3
from vlascope_datasets.video import CRF, VideoWriter, describe


class DatasetWriter:
    """Appends episodes to a dataset. One process writes a dataset at a time.

    A v2.1 episode exists as soon as `add_episode` returns. v3.0 episodes are staged then, and exist after `close`; where a
    process died before, `resume` finds them. Use it as a context manager: leaving with an error keeps what was added.

    Attributes:
        root: the dataset's folder.
    """

    def __init__(self, root: Path, info: DatasetInfo, tasks: Mapping[int, str], crf: int, held: contextlib.ExitStack):
        """Not for users: `create`, `begin` and `resume` are. `held` keeps other processes out, and is taken over."""
        self.root = root
        self._crf, self._closed = crf, False
        self._staging = root / STAGING
        v2 = info.version.startswith("v2")
        self._version_writer = WriterV2(root, info, tasks) if v2 else WriterV3(root, self._staging, info, tasks)
        self._info, self._tasks = info, dict(tasks)
        for episode in self._version_writer.waiting():
            self._count(episode.length, episode.tasks)
            self._version_writer.info, self._version_writer.tasks = self._info, self._tasks
        self._exit = held.pop_all()

    @classmethod
    def create(
        cls,
        path: str | Path,
        fps: float,
        features: Mapping[str, Feature],
        robot_type: str | None = None,
        version: str = "v2.1",
        *,
        video: bool | None = None,
        crf: int = CRF,
        **limits: float,
    ) -> DatasetWriter:
        """Begins a dataset.

        Args:
            path: a folder that is absent or empty.
            fps: frames a second.
            features: by column, `dtype`, `shape` of one frame and perhaps `names`; cameras are of dtype `image` or `video`.
            robot_type: for example `panda`.
            version: `v2.1`, which openpi reads, or `v3.0`.
            video: True stores every camera as video, False every camera as lossless images, None as its dtype says.
            crf: of video: 0 is lossless, 51 the smallest.
            limits: `chunks_size`, and for v3.0 `data_files_size_in_mb` and `video_files_size_in_mb`.

        Raises:
            DatasetError: the folder holds something, or a feature or version has no place in the format.
        """
        must_be_new(Path(path), "path")
        return cls.begin(path, new_info(version, fps, robot_type, complete(features, video), **limits), crf=crf)

    @classmethod
    def begin(cls, path: str | Path, info: DatasetInfo, *, crf: int = CRF) -> DatasetWriter:
        """Begins a dataset of which everything is decided, another one's copy for example; else as `create`."""
        root = Path(path)
        must_be_new(root, "path")
        with _held(root) as held:
            return cls(root, info, {}, crf, held)

    @classmethod
    def resume(cls, path: str | Path, *, crf: int = CRF) -> DatasetWriter:
        """Goes on with a dataset, finished or left by a killed writer.

        Raises:
            DatasetError: there is none, another process writes to it, or it is v2.0: convert that.
        """
        root = Path(path)
        # twice: what cannot be resumed is refused before a lock is left in it, and before it is locked it may grow
        _stored(root)
        with _held(root) as held:
            return cls(root, *_stored(root), crf, held)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        """Episodes that are written."""
        return self._info.total_episodes

    @property
    def info(self) -> DatasetInfo:
        """Of the dataset with every episode that was added."""
        return self._info

    def add_episode(
        self,
        frames: Mapping[str, ArrayLike],
        images: Mapping[str, Iterable[np.ndarray]] | None = None,
        task: str | Sequence[str] = "",
    ) -> int:
        """Writes one episode.

        Args:
            frames: every column but the index columns and cameras: [n, *shape], or [n] for shape (1,); all finite.
            images: every camera: uint8 [n, H, W, 3], or anything that yields n images, read once and one at a time.
            task: the instruction, or one a frame.

        Returns:
            The episode's number.

        Raises:
            DatasetError: a column or camera is missing, unknown or of another shape, dtype or length. Nothing is written.
        """
        if self._info.unread:
            key, why = next(iter(self._info.unread.items()))
            raise DatasetError(f"{self.root}: cannot be written to: feature {key} is {why}, which can only be copied")
        images = images or {}
        mine = [key for key in self._info.columns if key not in INDEX_FEATURES]
        _same_names("columns", frames, mine)
        _same_names("cameras", images, self._info.camera_keys)
        columns = {key: checked(key, self._info.features[key], frames[key]) for key in mine}
        length = self._length(columns, images)
        tasks = [task] * length if isinstance(task, str) else list(task)
        if len(tasks) != length or not all(isinstance(each, str) and each for each in tasks):
            raise DatasetError(f"task: expected an instruction, or {length}, one a frame; none of them empty")
        columns |= self._index(length, tasks)
        statistics = {
            k: column_statistics(v) for k, v in columns.items() if self._info.features[k]["dtype"] != "string"
        }
        with self._folder() as folder:
            arrays = {key: to_arrow(key, self._info.features[key], values) for key, values in columns.items()}
            videos = {}
            for key, given in images.items():
                encoded, statistics[key] = self._camera(key, given, length, folder)
                if isinstance(encoded, Path):
                    videos[key] = encoded
                else:
                    arrays[key] = encoded
            return self._commit(folder, arrays, videos, tuple(dict.fromkeys(tasks)), statistics, length)

    def add_stored(
        self, table: pa.Table, tasks: Sequence[str], videos: Mapping[str, Callable[[Path], object]], statistics: Statistics
    ) -> int:  # fmt: skip
        """Writes an episode that is encoded already: another dataset's.

        Args:
            table: its rows, of which there may be none; the index columns are made anew, but for `timestamp` and `frame_index`.
            tasks: the instruction of each row; where there is no row, those that the episode lists.
            videos: by camera, a function that writes its video to the path that it is given.
            statistics: of the features that do not depend on where the episode lies.

        Returns:
            The episode's number.
        """
        length = len(table)
        moved = ("episode_index", "index", "task_index")
        rows = tasks if length else ()
        index = {key: values for key, values in self._index(length, rows).items() if key in moved}
        stored = [key for key, feature in self._info.features.items() if feature["dtype"] != "video"]
        arrays = {
            key: table[key] if key in self._info.unread else _as_stored(key, self._info.features[key], table[key])
            for key in stored
            if key not in moved
        }
        arrays |= {key: to_arrow(key, self._info.features[key], values) for key, values in index.items()}
        known = statistics | {key: column_statistics(values) for key, values in index.items() if length}
        with self._folder() as folder:
            files = {key: folder / f"{number}.mp4" for number, key in enumerate(videos)}
            for key, write in videos.items():
                write(files[key])
            return self._commit(folder, arrays, files, tuple(dict.fromkeys(tasks)), known, length, table.schema)

    def close(self) -> None:
        """Ends writing; v3.0 episodes come into being here. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        with self._exit:
            self._version_writer.finish()
            shutil.rmtree(self._staging)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """Where one episode is put together; gone afterwards, whatever happened."""
        if self._closed:
            raise DatasetError(f"{self.root}: the writer is closed; use DatasetWriter.resume to add episodes")
        folder = self._staging / "next"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _index(self, length: int, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        numbers = {task: number for number, task in self._with(tasks).items()}
        frame = np.arange(length)
        return {
            "timestamp": (frame / self._info.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, self._info.total_episodes),
            "index": frame + self._info.total_frames,
            "task_index": np.array([numbers[task] for task in tasks], np.int64),
        }

    def _length(self, columns: Mapping[str, np.ndarray], images: Mapping[str, Iterable[np.ndarray]]) -> int:
        lengths = {key: len(values) for key, values in columns.items()}
        if not lengths:
            lengths = {key: len(values) for key, values in images.items() if isinstance(values, Sized)}
        if not lengths or 0 in lengths.values():
            raise DatasetError("an episode needs at least one frame")
        if len(set(lengths.values())) > 1:
            raise DatasetError(f"columns differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
        return next(iter(lengths.values()))

    def _camera(
        self, key: str, given: Iterable[np.ndarray], length: int, folder: Path
    ) -> tuple[pa.Array | Path, dict[str, np.ndarray]]:
        """Encodes a camera's images; a column of images or the path of a video, and their statistics."""
        feature, statistics = self._info.features[key], ImageStatistics()
        sampled = set(sampled_frames(length).tolist())
        video = feature["dtype"] == "video"
        path = folder / f"{len(list(folder.iterdir()))}.mp4"
        writer = VideoWriter(path, self._info.fps, feature["shape"], self._crf) if video else None
        encoded: list[bytes] = []
        try:
            for number, image in enumerate(pictures.checked_images(key, feature["shape"], length, given)):
                if number in sampled:
                    statistics.add(image)
                if writer:
                    writer.add(image)
                else:
                    encoded.append(pictures.encode(image))
        except BaseException:
            if writer:
                writer.abandon()
            raise
        if writer is None:
            return pictures.column(encoded), statistics.result()
        writer.close()
        return path, statistics.result()

    def _commit(
        self, folder: Path, arrays: Mapping[str, pa.Array | pa.ChunkedArray], videos: Mapping[str, Path],
        tasks: tuple[str, ...], statistics: Statistics, length: int, source: pa.Schema | None = None,
    ) -> int:  # fmt: skip
        unread = [key for key in self._info.unread if source and key in source.names]
        form = schema(self._info.features, {key: source.field(key) for key in unread} if source else {})
        table = pa.Table.from_arrays([arrays[name].cast(form.field(name).type) for name in form.names], schema=form)
        pq.write_table(table, folder / "table.parquet", row_group_size=self._version_writer.row_group or max(1, length))
        if self._info.total_frames == 0:
            self._describe_videos(videos)
        number, first = self._info.total_episodes, self._info.total_frames
        kept = _acceptable(statistics, self._info)
        prepared = Prepared(number, first, length, tasks, kept, folder / "table.parquet", videos)
        try:
            self._count(length, tasks)
            self._version_writer.commit(prepared, self._info, self._tasks)
        except BaseException:
            # the version's writer knows what exists: an interrupt may come before or after the step that counts
            self._info, self._tasks = self._version_writer.info, self._version_writer.tasks
            raise
        return number

    def _count(self, length: int, tasks: Sequence[str]) -> None:
        self._tasks = self._with(tasks)
        self._info = dataclasses.replace(
            self._info,
            total_episodes=self._info.total_episodes + 1,
            total_frames=self._info.total_frames + length,
            total_tasks=len(self._tasks),
        )

    def _with(self, tasks: Iterable[str]) -> dict[int, str]:
        """The dataset's instructions by index, and those of `tasks` that it has not.

        Indices that others have given may have gaps, and an instruction two: a new one lies beyond them all.
        """
        found, known = dict(self._tasks), set(self._tasks.values())
        for task in dict.fromkeys(tasks):
            if task not in known:
                found[max(found, default=-1) + 1] = task
        return found

    def _describe_videos(self, videos: Mapping[str, Path]) -> None:
        features = dict(self._info.features)
        for key, path in videos.items():
            if key in self._info.unread:  # only its writer knows what it is
                continue
            found = describe(path)
            found.pop("frames")
            # what another writer noted beside it, a calibration for example, stays
            known = features[key].get("info")
            features[key] = {**features[key], "info": {**(known if isinstance(known, dict) else {}), **found}}
        self._info = dataclasses.replace(self._info, features=features)


@contextlib.contextmanager
def _held(root: Path) -> Iterator[contextlib.ExitStack]:
    """Keeps other processes from writing to a dataset, until the end unless it is handed on."""
    with contextlib.ExitStack() as held:
        held.enter_context(locked(root / STAGING / "lock"))
        yield held


def _stored(root: Path) -> tuple[DatasetInfo, dict[int, str]]:
    """What a dataset to go on with says of itself, and its instructions by index.

    Raises:
        DatasetError: there is none, or it is v2.0.
    """
    fresh = root / STAGING / FRESH
    if not (root / INFO).is_file() and fresh.is_file():
        return info_from_map(read_json(fresh), fresh), {}
    info = read_info(root)
    if info.version == "v2.0":
        raise DatasetError(f"{root}: version v2.0 is read only; convert it to v2.1 or v3.0 first")
    metadata = (read_v2 if info.version == "v2.1" else read_v3)(root, info)
    if metadata.contradictions:
        raise DamagedError(f"{root}: {metadata.contradictions[0]}")
    info = metadata.info
    used = {task for episode in metadata.episodes for task in episode.tasks}
    # a killed writer may have listed a task, after the others, of an episode that never came to be
    listed = enumerate(metadata.tasks.items())
    return info, {n: task for place, (n, task) in listed if place < info.total_tasks or task in used}


def _acceptable(statistics: Statistics, info: DatasetInfo) -> Statistics:
    """Those that LeRobot takes: it holds every feature with "image" in its name for a camera, and refuses to open a dataset
    where the statistics of one are not of shape (3, 1, 1). A feature without statistics is no offence.
    """
    return {key: values for key, values in statistics.items() if "image" not in key or key in info.camera_keys}


def _as_stored(key: str, feature: Feature, column: pa.ChunkedArray) -> pa.Array:
    """Another dataset's column, in the types of a new one: writers differ in lists of one and in the order of structs."""
    if feature["dtype"] == "image":
        cells = column.combine_chunks()
        return pa.StructArray.from_arrays([cells.field("bytes"), cells.field("path")], names=["bytes", "path"])
    return to_arrow(key, feature, from_arrow(key, feature, column))


def _same_names(what: str, given: Collection[str], expected: Sequence[str]) -> None:
    missing, unknown = [k for k in expected if k not in given], [k for k in given if k not in expected]
    if missing:
        raise DatasetError(f"{what}: {', '.join(missing)} missing; given: {', '.join(given) or 'none'}")
    if unknown:
        raise DatasetError(f"{what}: {', '.join(unknown)} unknown; the dataset has {', '.join(expected) or 'none'}")
