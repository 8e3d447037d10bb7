"""Metadata of formats v2.0 and v2.1: JSON lines, one data file and one video a camera for each episode."""

from __future__ import annotations

from pathlib import Path

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import read_json, read_lines
from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.records import (
    EpisodeRecord,
    EpisodeStatisticsRecord,
    R,
    TaskRecord,
    checked_record,
    checked_statistics,
)
from vlascope_datasets.statistics import Statistics, aggregate
from vlascope_datasets.versions.contradictions import of_counts
from vlascope_datasets.versions.episodes import Episode, Metadata, VideoSpan, counted

TASKS, EPISODES = "meta/tasks.jsonl", "meta/episodes.jsonl"
EPISODE_STATISTICS, STATISTICS = "meta/episodes_stats.jsonl", "meta/stats.json"


def data_file(info: DatasetInfo, episode: int) -> str:
    """Where an episode's table lies, relative to the dataset."""
    return info.data_path.format(episode_chunk=episode // info.chunks_size, episode_index=episode)


def video_file(info: DatasetInfo, episode: int, key: str) -> str:
    """Where an episode's video of the camera `key` lies, relative to the dataset."""
    template = info.video_path or ""
    return template.format(episode_chunk=episode // info.chunks_size, episode_index=episode, video_key=key)


def read_v2(root: Path, info: DatasetInfo) -> Metadata:
    """Reads `meta/` of a v2.0 or v2.1 dataset.

    Raises:
        DatasetError: a file is missing.
        DamagedError: a file is not as the format says, or lists fewer episodes than `info.json`.
    """
    tasks = read_tasks(root)
    lines = _by_number(EpisodeRecord, root / EPISODES, "episode_index")
    total = max(lines, default=-1) + 1 if "total_episodes" in info.uncounted else info.total_episodes
    missing = next((n for n in range(total) if n not in lines), None)
    if missing is not None:
        raise DamagedError(f"{root / EPISODES}: episode {missing} of {total} is missing")
    episodes, first = [], 0
    for n in range(total):
        length = lines[n].length
        videos = {key: VideoSpan(video_file(info, n, key), 0.0) for key in info.video_keys}
        episodes.append(Episode(n, length, tuple(lines[n].tasks), first, data_file(info, n), 0, videos))
        first += length
    contradictions = of_counts(info, tasks, [episode.tasks for episode in episodes], first)
    info = counted(info, tasks, episodes)

    def of_episodes() -> dict[int, Statistics]:
        path = root / EPISODE_STATISTICS
        if not path.is_file():
            return {}
        kept = _by_number(EpisodeStatisticsRecord, path, "episode_index")
        return {
            n: checked_statistics(line.stats, f"{path}: episode {n}")
            for n, line in kept.items()
            if n < info.total_episodes
        }

    def of_all() -> Statistics:
        kept = of_episodes()
        # v2.1 keeps none of the whole: a file that is there is left from v2.0, of the episodes that there were then
        if (info.version == "v2.0" or not kept) and (root / STATISTICS).is_file():
            return checked_statistics(read_json(root / STATISTICS), str(root / STATISTICS))
        return aggregate(kept.values())

    return Metadata(info, tasks, tuple(episodes), of_all, of_episodes, tuple(contradictions))


def read_tasks(root: Path) -> dict[int, str]:
    """Instruction by task index."""
    return {n: line.task for n, line in _by_number(TaskRecord, root / TASKS, "task_index").items()}


def _by_number(kind: type[R], path: Path, key: str) -> dict[int, R]:
    """The lines of a file by their number.

    Raises:
        DatasetError: the file is missing.
        DamagedError: a line is not what it should be, or two of one number differ.
    """
    found: dict[int, R] = {}
    for place, raw in enumerate(read_lines(path), 1):
        line = checked_record(kind, raw, f"{path}: line {place}")
        number = getattr(line, key)
        if found.setdefault(number, line) != line:
            raise DamagedError(f"{path}: line {place}: {key} {number} again, and not as before")
    return found
