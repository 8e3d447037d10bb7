"""Metadata of format v3.0: tables of tasks and episodes; files of data and video that hold many episodes.

Knows nothing of frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlascope_datasets.errors import DamagedError, well_formed
from vlascope_datasets.files import read_json
from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.layouts.episodes import Episode, Metadata, VideoSpan
from vlascope_datasets.statistics import Statistics, aggregate, to_arrays
from vlascope_datasets.tables import open_table, read_table

TASKS, EPISODES, STATISTICS = "meta/tasks.parquet", "meta/episodes", "meta/stats.json"
_STATISTICS_PREFIX = "stats/"


def episode_files(root: Path) -> list[Path]:
    """The files of `meta/episodes`, in order."""
    return sorted((root / EPISODES).glob("chunk-*/file-*.parquet"))


def read_v3(root: Path, info: DatasetInfo) -> Metadata:
    """Reads `meta/` of a v3.0 dataset.

    Raises:
        DatasetError: a file is missing.
        DamagedError: a file is not as the format says, or lists fewer episodes than `info.json`.
    """
    tasks = read_tasks(root) if info.total_episodes else {}
    with well_formed(f"{root / EPISODES}: a row"):
        episodes = _episodes(episode_rows(root, info.total_episodes), info)

    def of_all() -> Statistics:
        with well_formed(f"{root / STATISTICS}"):
            kept = to_arrays(read_json(root / STATISTICS)) if (root / STATISTICS).is_file() else {}
            counted = kept["index"]["count"].tolist() if "index" in kept else None
        if counted is not None and counted != [sum(episode.length for episode in episodes)]:
            # a writer that was killed while it finished had counted more in
            return aggregate(episode_statistics(root, info.total_episodes).values())
        return kept

    return Metadata(tasks, episodes, of_all, lambda: episode_statistics(root, info.total_episodes))


def read_tasks(root: Path) -> dict[int, str]:
    """Instruction by task index; the text is the table's pandas index, which early writers left without a name."""
    table = read_table(root / TASKS)
    for name in ("task", "__index_level_0__"):
        if {name, "task_index"} <= set(table.column_names):
            return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))
    raise DamagedError(f"{root / TASKS}: expected columns task and task_index, found {', '.join(table.column_names)}")


def episode_rows(root: Path, total: int, *, statistics: bool = False) -> list[dict[str, Any]]:
    """Rows of `meta/episodes`, committed ones in order; with the columns of statistics, or without them.

    Raises:
        DamagedError: an episode is missing.
    """
    rows: dict[int, dict[str, Any]] = {}
    for path in episode_files(root):
        names = open_table(path).schema_arrow.names
        chosen = [n for n in names if statistics or not n.startswith(_STATISTICS_PREFIX)]
        for row in read_table(path, chosen).to_pylist():
            rows[row["episode_index"]] = row
    missing = [n for n in range(total) if n not in rows]
    if missing:
        raise DamagedError(f"{root / EPISODES}: episode {missing[0]} of {total} is missing")
    return [rows[n] for n in range(total)]


def _episodes(rows: list[dict[str, Any]], info: DatasetInfo) -> tuple[Episode, ...]:
    sharing: dict[str, int] = {}
    for row in rows:
        for key in info.video_keys:
            name = _video_file(info, row, key)
            sharing[name] = sharing.get(name, 0) + 1
    episodes, used, first = [], {}, 0
    for row in rows:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        file = info.data_path.format(**place)
        videos = {}
        for key in info.video_keys:
            name = _video_file(info, row, key)
            videos[key] = VideoSpan(name, float(row[f"videos/{key}/from_timestamp"]), sharing[name] == 1)
        length = int(row["length"])
        episodes.append(
            Episode(row["episode_index"], length, tuple(row["tasks"]), first, file, used.get(file, 0), videos)
        )
        used[file] = used.get(file, 0) + length
        first += length
    return tuple(episodes)


def _video_file(info: DatasetInfo, row: dict[str, Any], key: str) -> str:
    place = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
    return (info.video_path or "").format(video_key=key, **place)


def episode_statistics(root: Path, total: int) -> dict[int, Statistics]:
    """By committed episode; those that the table has none of are left out."""
    found = {}
    for row in episode_rows(root, total, statistics=True):
        flat = {name[len(_STATISTICS_PREFIX) :]: v for name, v in row.items() if name.startswith(_STATISTICS_PREFIX)}
        nested: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            key, _, part = name.rpartition("/")
            if value is not None:
                nested.setdefault(key, {})[part] = np.asarray(value)
        if nested:
            found[row["episode_index"]] = to_arrays(nested)
    return found
