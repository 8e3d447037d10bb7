"""Reads LeRobot datasets of format v2.0, v2.1 and v3.0, as much of them as is asked for."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlascope_datasets.cache import ByteCache
from vlascope_datasets.errors import DamagedError, DatasetError, UnreadError
from vlascope_datasets.features import INDEX_FEATURES, from_arrow, schema
from vlascope_datasets.files import inside
from vlascope_datasets.images import content, decode
from vlascope_datasets.info import INFO, DatasetInfo, read_info
from vlascope_datasets.statistics import Statistics
from vlascope_datasets.tables import open_table, read_rows
from vlascope_datasets.versions import Contradiction, Episode, read_v2, read_v3
from vlascope_datasets.versions.prepared import FRESH, STAGING
from vlascope_datasets.video import TOLERANCE, read_frames

CACHE_BYTES = 512 * 2**20


class LeRobotDataset:
    """A dataset on disk. Opening reads its metadata; frames are read when asked. May be pickled and used by many threads.

    Attributes:
        root: its folder.
        info: what it says of itself: fps, features, robot type, counts, version.
        episodes: its episodes, in order.
        tasks: instruction by `task_index`.
        tolerance_s: seconds that a video's frame may be off its row's timestamp.
    """

    def __init__(self, root: Path, info: DatasetInfo, cache_bytes: int, tolerance_s: float, strict: bool):
        metadata = (read_v2 if info.version.startswith("v2") else read_v3)(root, info)
        if strict and metadata.contradictions:
            first, *others = metadata.contradictions
            more = f" ({len(others)} more contradictions; vlascope-datasets stats lists them)" if others else ""
            raise DamagedError(f"{root}: {first}{more}")
        self.root, self.info = root, metadata.info
        self.tolerance_s, self._strict = tolerance_s, strict
        self.episodes: tuple[Episode, ...] = metadata.episodes
        self.tasks: dict[int, str] = metadata.tasks
        self._metadata = metadata
        self._starts = [episode.first_frame for episode in self.episodes]
        self._cache = ByteCache(cache_bytes)

    @classmethod
    def open(
        cls, path: str | Path, *, cache_bytes: int = CACHE_BYTES, tolerance_s: float = TOLERANCE, strict: bool = True
    ) -> LeRobotDataset:
        """Opens the dataset in the folder `path`.

        Args:
            path: the folder that holds `meta/`.
            cache_bytes: columns of numbers that are kept in memory, least recently read ones given up first.
            tolerance_s: seconds that a video's frame may be off its row's timestamp; what LeRobot calls so.
            strict: whether facts that the metadata give twice and differently are refused. Else they are in `contradictions`,
                and what is read may be wrong.

        Raises:
            DatasetError: it is no dataset, or a file of metadata is missing.
            VersionError: its format is not read.
            DamagedError: its metadata contradict themselves.
        """
        root = Path(path)
        if not (root / INFO).is_file() and (root / STAGING / FRESH).is_file():
            raise DatasetError(f"{root}: its writer never closed it; DatasetWriter.resume(path).close() does")
        if not tolerance_s >= 0:
            raise DatasetError(f"tolerance_s: expected seconds, at least 0, found {tolerance_s}")
        return cls(root, read_info(root), cache_bytes, tolerance_s, strict)

    def __len__(self) -> int:
        """Frames of all episodes."""
        return self.episodes[-1].first_frame + self.episodes[-1].length if self.episodes else 0

    def __repr__(self) -> str:
        return f"<LeRobotDataset {self.root} {self.info.version}: {len(self.episodes)} episodes, {len(self)} frames>"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "root": self.root, "info": self.info, "cache_bytes": self._cache.limit, "tolerance_s": self.tolerance_s,
            "strict": self._strict,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Facts that the metadata give twice and differently; none where `open` was strict."""
        return self._metadata.contradictions

    @property
    def statistics(self) -> Statistics:
        """Of all frames, by feature; empty where the dataset keeps none."""
        return self._metadata.statistics()

    def episode_statistics(self) -> dict[int, Statistics]:
        """By episode; v2.0 keeps none."""
        return self._metadata.episode_statistics()

    def locate(self, index: int) -> tuple[int, int]:
        """Episode and frame of the dataset's frame `index`, 0 to `len(dataset) - 1`.

        Raises:
            IndexError: there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index}: the dataset has {len(self)}")
        episode = bisect.bisect_right(self._starts, index) - 1
        return episode, index - self._starts[episode]

    def episode(self, number: int) -> Episode:
        """One episode.

        Raises:
            DatasetError: there is no such episode.
        """
        if not 0 <= number < len(self.episodes):
            raise DatasetError(f"{self.root}: no episode {number}; it has 0 to {len(self.episodes) - 1}")
        return self.episodes[number]

    def table(self, episode: int, columns: list[str] | None = None) -> pa.Table:
        """An episode's rows as they are stored: the columns of all features, images encoded; or some columns.

        Raises:
            DatasetError: the file is missing.
            DamagedError: it is no Parquet file, lacks a column, has fewer rows or (v2) more, or they are of another episode or
                in another order.
        """
        chosen = self.episode(episode)
        path = inside(self.root, chosen.file)
        if columns is None:
            stored = [key for key, feature in self.info.features.items() if feature["dtype"] != "video"]
            columns = list(dict.fromkeys([*stored, *INDEX_FEATURES]))
        if not chosen.length and not path.is_file():  # who left its rows out left its file out too
            features = {key: self.info.features.get(key) or INDEX_FEATURES[key] for key in columns}
            return schema(features, {key: pa.field(key, pa.null()) for key in self.info.unread}).empty_table()
        exactly = self.info.version.startswith("v2")
        return self._rows(episode, 0, chosen.length, columns, exactly=exactly)

    def _rows(self, episode: int, first: int, stop: int, columns: list[str], *, exactly: bool = False) -> pa.Table:
        """Some rows of an episode, which say that they are; `exactly` where its file holds no others."""
        chosen = self.episode(episode)
        path, begin = inside(self.root, chosen.file), chosen.first_row
        if exactly and (held := open_table(path).metadata.num_rows) != chosen.length:
            raise DamagedError(f"{path}: expected the {chosen.length} rows of episode {episode}, found {held} rows")
        wanted = list(dict.fromkeys([*columns, "episode_index", "frame_index"]))
        table = read_rows(path, begin + first, begin + stop, wanted)
        others = set(table["episode_index"].unique().to_pylist()) - {episode}
        if others:
            raise DamagedError(f"{path}: rows of episode {episode} say that they are of {min(others, key=str)}")
        numbers = enumerate(table["frame_index"].to_pylist() if self._strict else [], first)
        if wrong := next(((place, n) for place, n in numbers if n != place), None):
            raise DamagedError(f"{path}: episode {episode}: frame_index of row {wrong[0]} is {wrong[1]}")
        return table.select(columns)

    def values(self, episode: int, key: str, column: pa.ChunkedArray) -> np.ndarray:
        """A column of an episode's `table` as an array, [n] or [n, *shape]; text as an array of objects.

        Raises:
            DamagedError: it does not have the feature's shape or type, or holds nulls; the message names file and episode.
        """
        try:
            return from_arrow(key, self.info.features.get(key) or INDEX_FEATURES[key], column)
        except DamagedError as error:
            raise DamagedError(f"{self.root / self.episode(episode).file}: episode {episode}: {error}") from error

    def frames(self, episode: int, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of an episode, cameras left out.

        Args:
            episode: its number.
            keys: which columns; all of numbers or text unless given. What is not read (`info.unread`) is left out.

        Returns:
            By column [n], or [n, *shape], read-only; text as an array of objects.

        Raises:
            DatasetError: no such episode or column, or a missing file.
            DamagedError: the file does not hold what the metadata say.
        """
        keys = self.info.columns if keys is None else list(keys)
        for key in keys:
            if key in self.info.unread:
                raise UnreadError(f"{self.root}: the column {key!r} is {self.info.unread[key]}, which is not read")
            if key not in self.info.columns:
                raise DatasetError(f"{self.root}: no column {key!r}; it has {', '.join(self.info.columns)}")
        return self._numbers(episode, keys)

    def _numbers(self, episode: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        found = {key: self._cache.get((episode, key)) for key in keys}
        missing = [key for key, values in found.items() if values is None]
        if missing:
            table = self.table(episode, missing)
            for key in missing:
                values = self.values(episode, key, table[key])
                values.flags.writeable = False
                self._cache.put((episode, key), values)
                found[key] = values
        return {key: values for key, values in found.items() if values is not None}

    def chunk(self, episode: int, frame: int, horizon: int, key: str = "action") -> tuple[np.ndarray, np.ndarray]:
        """The actions from a frame on.

        Args:
            episode: its number.
            frame: of the first action.
            horizon: how many.
            key: the column; many datasets, openpi's LIBERO among them, call it `actions`.

        Returns:
            Actions [horizon, a], the last one repeated beyond the end of the episode; and bool [horizon], true for real ones.
        """
        values = self.frames(episode, [key])[key]
        self._check_frame(episode, frame)
        at = np.arange(frame, frame + horizon)
        return values[np.minimum(at, len(values) - 1)], at < len(values)

    def task(self, episode: int, frame: int = 0) -> str:
        """The instruction at a frame."""
        self._check_frame(episode, frame)
        number = int(self.frames(episode, ["task_index"])["task_index"][frame])
        if number not in self.tasks:
            raise DamagedError(f"{self.root}: episode {episode}, frame {frame}: no task {number}")
        return self.tasks[number]

    def image(self, episode: int, frame: int, key: str) -> np.ndarray:
        """One image: uint8 [H, W, 3]; errors as `images`."""
        return self.images(episode, key, [frame])[0]

    def images(self, episode: int, key: str, frames: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Images of a camera.

        Args:
            episode: its number.
            key: the camera.
            frames: which, in any order; all unless given.

        Returns:
            uint8 [n, H, W, 3], in the order of `frames`.

        Raises:
            DatasetError: no such episode, camera or frame, or a missing file.
            DamagedError: a file is no image or video, or a video shows nothing at a row's timestamp.
            UnreadError: a depth map, or an image that is neither eight bits of colour nor of grey.
        """
        chosen = self.episode(episode)
        if key in self.info.unread:
            raise UnreadError(f"{self.root}: {key!r} is {self.info.unread[key]}, which is not read")
        if key not in self.info.camera_keys:
            raise DatasetError(f"{self.root}: no camera {key!r}; it has {', '.join(self.info.camera_keys) or 'none'}")
        wanted = np.arange(chosen.length) if frames is None else np.asarray(frames, np.int64)
        for frame in wanted:
            self._check_frame(episode, int(frame))
        if not len(wanted):
            height, width, channels = (*self.info.features[key]["shape"], 0, 0, 0)[:3]
            if height in (1, 3) and channels not in (1, 3):  # some writers declare the channels first
                height, width = width, channels
            return np.empty((0, height, width, 3), np.uint8)
        if key in self.info.video_keys:
            times, tolerance = self.video_times(episode, key)
            try:
                return read_frames(inside(self.root, chosen.videos[key].file), times[wanted], tolerance)
            except DamagedError as error:
                said = "; tolerance_s (--tolerance-s) allows more" if "shows no frame" in str(error) else ""
                raise DamagedError(f"{error} (episode {episode}, {key}){said}") from error
        path, first = inside(self.root, chosen.file), int(wanted.min())
        rows = self._rows(episode, first, int(wanted.max()) + 1, [key])[key]
        images = []
        for frame in wanted:
            where = f"{path}: episode {episode}, frame {frame}, {key}"
            images.append(decode(content(rows[int(frame) - first].as_py(), self.root, where), where))
        if len({image.shape for image in images}) > 1:
            raise DamagedError(f"{path}: episode {episode}, {key}: images of several sizes")
        return np.stack(images)

    def video_times(self, episode: int, key: str) -> tuple[np.ndarray, float]:
        """At which second of its video each frame of an episode is shown: where the episode begins plus the row's `timestamp`.

        Args:
            episode: its number.
            key: the camera, one that is stored as video.

        Returns:
            float64 [n], and the seconds that a frame may be off: the dataset's tolerance, or what a float32 can tell apart.

        Raises:
            DamagedError: the rows' timestamps are none, or contradict where the metadata say that the episode lies.
        """
        chosen = self.episode(episode)
        span = chosen.videos[key]
        for number in (*span.before, episode):
            self._check_span(number, key)
        stamps = self._numbers(episode, ["timestamp"])["timestamp"].astype(np.float64)
        if not len(stamps):
            return stamps, self.tolerance_s
        return span.start + stamps, max(self.tolerance_s, float(np.spacing(np.float32(np.abs(stamps).max()))))

    def _check_span(self, episode: int, key: str) -> None:
        """Compares an episode's piece of a video with its rows' timestamps."""
        chosen = self.episode(episode)
        file = self.root / chosen.file
        stamps = self._numbers(episode, ["timestamp"])["timestamp"].astype(np.float64)
        if not np.isfinite(stamps).all():
            raise DamagedError(
                f"{file}: episode {episode}: timestamp of row {int(np.argmin(np.isfinite(stamps)))} is no time"
            )
        span = chosen.videos[key]
        if span.stop is None or not len(stamps):
            return
        last, takes = float(stamps.max()), span.stop - span.start
        # for however short the last frame is shown; frames that no row names may follow it
        if takes <= last + min(self.tolerance_s, TOLERANCE):
            raise DamagedError(
                f"{file}: episode {episode}, {key}: the video has {takes:.4g} s for it (from_timestamp {span.start:g} s to"
                f" to_timestamp {span.stop:g} s), its rows go up to the timestamp {last:.4g} s"
            )

    def _check_frame(self, episode: int, frame: int) -> None:
        length = self.episode(episode).length
        if not 0 <= frame < length:
            raise DatasetError(f"{self.root}: episode {episode} has no frame {frame}; it has 0 to {length - 1}")
