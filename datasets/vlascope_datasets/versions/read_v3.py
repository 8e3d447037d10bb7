"""Metadata of format v3.0: tables of tasks and episodes; files of data and video that hold many episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import read_json
from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.records import (
    EpisodeRowRecord,
    TaskRecord,
    VideoRecord,
    checked_record,
    checked_statistics,
)
from vlascope_datasets.statistics import Statistics, aggregate
from vlascope_datasets.tables import open_table, read_table
from vlascope_datasets.versions.contradictions import Contradiction, Film, of_counts, of_frame_numbers
from vlascope_datasets.versions.episodes import Episode, Metadata, VideoSpan, counted

TASKS, EPISODES, STATISTICS = "meta/tasks.parquet", "meta/episodes", "meta/stats.json"
_STATISTICS_PREFIX = "stats/"
_FILE = "<file>"
"""Under which a row keeps the file that it was read from."""


def episode_files(root: Path) -> list[Path]:
    """The files of `meta/episodes`, in order."""
    return sorted((root / EPISODES).glob("chunk-*/file-*.parquet"))


def read_v3(root: Path, info: DatasetInfo) -> Metadata:
    """Reads `meta/` of a v3.0 dataset.

    Raises:
        DatasetError: a file is missing.
        DamagedError: a file is not as the format says, or lists fewer episodes than `info.json`.
    """
    rows = [_Row(raw, root, info) for raw in episode_rows(root, _total(info))]
    tasks = read_tasks(root) if rows else {}
    found: list[Contradiction] = []
    episodes = _episodes(rows, root, info, found)
    found += of_counts(info, tasks, [episode.tasks for episode in episodes], sum(e.length for e in episodes))
    info = counted(info, tasks, episodes)

    def of_all() -> Statistics:
        path = root / STATISTICS
        kept = checked_statistics(read_json(path), str(path)) if path.is_file() else {}
        numbered = kept.get("index", {}).get("count")
        if numbered is not None and numbered.reshape(-1).tolist() != [info.total_frames]:
            # a writer that was killed while it finished had counted more in
            return aggregate(episode_statistics(root, info.total_episodes).values())
        return kept

    def of_episodes() -> dict[int, Statistics]:
        return episode_statistics(root, info.total_episodes)

    return Metadata(info, tasks, episodes, of_all, of_episodes, tuple(found))


def read_tasks(root: Path) -> dict[int, str]:
    """Instruction by task index; the text is the table's pandas index, which early writers left without a name."""
    table, tasks = read_table(root / TASKS), {}
    for name in ("task", "__index_level_0__"):
        if {name, "task_index"} <= set(table.column_names):
            for place, (number, task) in enumerate(
                zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True)
            ):
                where = f"{root / TASKS}: row {place}"
                line = checked_record(TaskRecord, {"task_index": number, "task": task}, where)
                if tasks.setdefault(line.task_index, line.task) != line.task:
                    raise DamagedError(f"{where}: task_index {number} again, and not as before")
            return tasks
    raise DamagedError(f"{root / TASKS}: expected columns task and task_index, found {', '.join(table.column_names)}")


def episode_rows(root: Path, total: int | None, *, statistics: bool = False) -> list[dict[str, Any]]:
    """Rows of `meta/episodes`, committed ones in order; with the columns of statistics, or without them.

    Args:
        root: of the dataset.
        total: how many are committed; None takes all that are listed.
        statistics: whether to read them.

    Raises:
        DamagedError: an episode is missing, or has no number.
    """
    rows: dict[int, dict[str, Any]] = {}
    for path in episode_files(root):
        names = open_table(path).schema_arrow.names
        chosen = [n for n in names if statistics or not n.startswith(_STATISTICS_PREFIX)]
        for place, row in enumerate(read_table(path, chosen).to_pylist()):
            number = row.get("episode_index")
            if not isinstance(number, int):
                raise DamagedError(f"{path}: row {place}: episode_index: expected a whole number, found {number!r}")
            if number in rows and (total is None or number < total):
                raise DamagedError(
                    f"{path}: row {place}: episode_index {number} again, after {rows[number][_FILE].name}"
                )
            rows[number] = row | {_FILE: path}
    total = max(rows, default=-1) + 1 if total is None else total
    missing = next((n for n in range(total) if n not in rows), None)
    if missing is not None:
        raise DamagedError(f"{root / EPISODES}: episode {missing} of {total} is missing")
    return [rows[n] for n in range(total)]


def _total(info: DatasetInfo) -> int | None:
    return None if "total_episodes" in info.uncounted else info.total_episodes


class _Row:
    """One row of `meta/episodes`, checked."""

    def __init__(self, raw: dict[str, Any], root: Path, info: DatasetInfo):
        self.file = raw.pop(_FILE)
        where = f"{self.file}: episode {raw['episode_index']}"
        self.facts = checked_record(EpisodeRowRecord, raw, where)
        self.videos: dict[str, VideoRecord] = {}
        for key in info.video_keys:
            prefix = f"videos/{key}/"
            parts = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
            self.videos[key] = checked_record(VideoRecord, parts, f"{where}: {prefix.rstrip('/')}")

    def data_file(self, info: DatasetInfo) -> str:
        """Where its table lies, relative to the dataset."""
        return info.data_path.format(chunk_index=self.facts.data_chunk_index, file_index=self.facts.data_file_index)

    def video_file(self, info: DatasetInfo, key: str) -> str:
        """Where its video of the camera `key` lies, relative to the dataset."""
        place = self.videos[key]
        template = info.video_path or ""
        return template.format(video_key=key, chunk_index=place.chunk_index, file_index=place.file_index)


def _episodes(rows: list[_Row], root: Path, info: DatasetInfo, found: list[Contradiction]) -> tuple[Episode, ...]:
    """The episodes; what their rows say twice and differently is added to `found`."""
    episodes, used, first = [], {}, 0
    films: dict[str, Film] = {}
    for row in rows:
        facts, file, videos = row.facts, row.data_file(info), {}
        said_in = row.file.relative_to(root).as_posix()
        found += of_frame_numbers(facts, said_in, first)
        for key, place in row.videos.items():
            name = row.video_file(info, key)
            film = films.setdefault(name, Film(key, info.fps))
            before = tuple(film.episodes)
            even, contradictions = film.add(facts, place, said_in)
            found += contradictions
            videos[key] = VideoSpan(name, float(place.from_timestamp), place.to_timestamp, () if even else before)
        episodes.append(
            Episode(facts.episode_index, facts.length, tuple(facts.tasks), first, file, used.get(file, 0), videos)
        )
        used[file] = used.get(file, 0) + facts.length
        first += facts.length
    return tuple(episodes)


def episode_statistics(root: Path, total: int) -> dict[int, Statistics]:
    """By committed episode; those that the table has none of are left out."""
    found = {}
    for row in episode_rows(root, total, statistics=True):
        flat = {name[len(_STATISTICS_PREFIX) :]: v for name, v in row.items() if name.startswith(_STATISTICS_PREFIX)}
        nested: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            key, _, part = name.rpartition("/")
            if value is not None:
                nested.setdefault(key, {})[part] = value
        if nested:
            where = f"{row[_FILE]}: episode {row['episode_index']}"
            found[row["episode_index"]] = checked_statistics(nested, where)
    return found
