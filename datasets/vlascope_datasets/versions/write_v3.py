"""Writes format v3.0: episodes wait in a folder of their own and are joined into files at the end.

A file of v3.0 holds many episodes, and neither Parquet nor MP4 can be appended to safely. So an episode is staged as a folder
(renamed when whole), and `finish` joins all that wait: data, videos, then metadata, and `info.json` last, which is what
makes them exist. A killed writer leaves the staged folders, and the next one takes them over.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlascope_datasets.files import move, read_json, write_json
from vlascope_datasets.info import INFO, DatasetInfo
from vlascope_datasets.records import checked_statistics
from vlascope_datasets.statistics import aggregate, to_lists
from vlascope_datasets.tables import read_table
from vlascope_datasets.versions.prepared import FRESH, Prepared
from vlascope_datasets.versions.read_v3 import STATISTICS, TASKS, episode_rows, episode_statistics
from vlascope_datasets.video import VideoJoiner

_MIB = 2**20
RECORD = "episode.json"
EPISODES_FILE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class WriterV3:
    """Stages prepared episodes, and joins them.

    Attributes:
        info: with everything that is committed or waits.
        tasks: instruction by task index, likewise.
    """

    # an episode is a row group: what LeRobot's own recorder writes
    row_group = None

    def __init__(self, root: Path, staging: Path, info: DatasetInfo, tasks: Mapping[int, str]):
        self.root, self.staging, self.info, self.tasks = root, staging, info, dict(tasks)
        self._committed = info.total_episodes
        if not (root / INFO).is_file():
            write_json(staging / FRESH, info.to_map())

    def waiting(self) -> list[Prepared]:
        """Staged episodes, in order, up to the first gap."""
        found = []
        while (folder := self._folder(self._committed + len(found))).is_dir():
            found.append(Prepared.from_map(read_json(folder / RECORD), folder))
        return found

    def _folder(self, number: int) -> Path:
        return self.staging / f"episode_{number:06d}"

    def commit(self, episode: Prepared, info: DatasetInfo, tasks: Mapping[int, str]) -> None:
        """Stages one episode: its folder is renamed when everything is in it.

        Where this raises, `info` and `tasks` say whether it is staged: an interrupt may come after that step.
        """
        made, folder = episode.table.parent, self._folder(episode.index)
        for file in (episode.table, *episode.videos.values()):
            move(file, file)
        write_json(made / RECORD, episode.to_map())
        if not (self.root / INFO).is_file():
            # now the features say how videos are encoded
            write_json(self.staging / FRESH, dataclasses.replace(info, total_episodes=0, total_frames=0).to_map())
        shutil.rmtree(folder, ignore_errors=True)
        try:
            move(made, folder)
        finally:
            if folder.is_dir() and not made.is_dir():
                self.info, self.tasks = info, dict(tasks)

    def finish(self) -> None:
        """Joins what waits. Killed at any moment, the dataset is what it was before, and this can be done again."""
        staged = self.waiting()
        if not staged and (self.root / INFO).is_file():
            return
        if staged:
            committed = episode_rows(self.root, self._committed)
            rows = [self._row(episode) for episode in staged]
            self._join_tables(staged, rows, committed)
            for key in self.info.video_keys:
                self._join_videos(key, staged, rows, committed)
            self._write_metadata(staged, rows, committed)
        write_json(self.root / INFO, self.info.to_map())
        for episode in staged:
            shutil.rmtree(episode.table.parent)
        self._committed = self.info.total_episodes

    def _row(self, episode: Prepared) -> dict[str, Any]:
        return {
            "episode_index": episode.index,
            "tasks": list(episode.tasks),
            "length": episode.length,
            "dataset_from_index": episode.first_frame,
            "dataset_to_index": episode.first_frame + episode.length,
        }

    def _next(self, rows: list[dict[str, Any]], prefix: str) -> int:
        """Number of the first file that committed episodes do not use: they are never touched."""
        numbers = (row[f"{prefix}/chunk_index"] * self.info.chunks_size + row[f"{prefix}/file_index"] for row in rows)
        return max(numbers, default=-1) + 1

    def _place(self, number: int) -> dict[str, int]:
        return {"chunk_index": number // self.info.chunks_size, "file_index": number % self.info.chunks_size}

    def _join_tables(self, staged: list[Prepared], rows: list[dict], committed: list[dict]) -> None:
        number, size, writer = self._next(committed, "data"), 0, None
        partial = self.staging / "joined.parquet"

        def close() -> None:
            if writer is not None:
                writer.close()
                move(partial, self.root / self.info.data_path.format(**self._place(number)))

        for episode, row in zip(staged, rows, strict=True):
            bytes_now = episode.table.stat().st_size
            if writer is not None and size + bytes_now > self.info.data_files_size_in_mb * _MIB:
                close()
                number, size, writer = number + 1, 0, None
            table = read_table(episode.table)
            if writer is not None and writer.schema != table.schema:
                # columns that are not read are as their writer made them, one episode another than the next
                close()
                number, size, writer = number + 1, 0, None
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table, row_group_size=max(1, len(table)))
            size += bytes_now
            row |= {f"data/{name}": value for name, value in self._place(number).items()}
        close()

    def _join_videos(self, key: str, staged: list[Prepared], rows: list[dict], committed: list[dict]) -> None:
        number, size, joiner = self._next(committed, f"videos/{key}"), 0, None
        partial = self.staging / "joined.mp4"

        def close() -> None:
            if joiner is not None:
                joiner.close()
                path = (self.info.video_path or "").format(video_key=key, **self._place(number))
                move(partial, self.root / path)

        stop = 0.0
        for episode, row in zip(staged, rows, strict=True):
            file = episode.videos.get(key)
            if file is None:  # no frames: it begins and ends where the one before it in the file ends
                row |= {f"videos/{key}/{name}": value for name, value in self._place(number).items()}
                row |= {f"videos/{key}/from_timestamp": stop, f"videos/{key}/to_timestamp": stop}
                continue
            bytes_now = file.stat().st_size
            limit = self.info.video_files_size_in_mb * _MIB
            if joiner is not None and (size + bytes_now > limit or not joiner.fits(file)):
                close()
                number, size, joiner = number + 1, 0, None
            if joiner is None:
                joiner, stop = VideoJoiner(partial, self.info.fps), 0.0
            start, stop = joiner.add(file)
            size += bytes_now
            row |= {f"videos/{key}/{name}": value for name, value in self._place(number).items()}
            row[f"videos/{key}/from_timestamp"] = start
            row[f"videos/{key}/to_timestamp"] = stop
        close()

    def _write_metadata(self, staged: list[Prepared], rows: list[dict], committed: list[dict]) -> None:
        number = self._next(committed, "meta/episodes")
        for row in rows:
            row |= {f"meta/episodes/{name}": value for name, value in self._place(number).items()}
        self._write_table(episodes_table(rows, staged), EPISODES_FILE.format(**self._place(number)))
        self._write_table(tasks_table(self.tasks), TASKS)
        # from the episodes, not from the file: a killed writer may have counted these in already
        known = episode_statistics(self.root, len(committed))
        before = list(known.values())
        if len(known) < len(committed) and (self.root / STATISTICS).is_file():
            before = [checked_statistics(read_json(self.root / STATISTICS), str(self.root / STATISTICS))]
        write_json(self.root / STATISTICS, to_lists(aggregate(before + [episode.statistics for episode in staged])))

    def _write_table(self, table: pa.Table, name: str) -> None:
        partial = self.staging / "metadata.parquet"
        pq.write_table(table, partial)
        move(partial, self.root / name)


def tasks_table(tasks: Mapping[int, str]) -> pa.Table:
    """The content of `meta/tasks.parquet`: LeRobot reads it with pandas and looks tasks up in its index, so `task` is one."""
    table = pa.table({"task_index": pa.array(tasks, pa.int64()), "task": pa.array(tasks.values(), pa.string())})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    labels = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [labels | {"metadata": {"encoding": "UTF-8"}}],
        "columns": described,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episodes_table(rows: list[dict[str, Any]], episodes: list[Prepared]) -> pa.Table:
    """The content of one file of `meta/episodes`: a row an episode, its statistics flattened to `stats/<feature>/<name>`."""
    table = pa.Table.from_pylist(rows)
    keys = dict.fromkeys((key, name) for e in episodes for key, values in e.statistics.items() for name in values)
    for key, name in keys:
        values = [e.statistics.get(key, {}).get(name) for e in episodes]
        listed = pa.array([None if value is None else value.tolist() for value in values])
        table = table.append_column(f"stats/{key}/{name}", listed)
    return table
