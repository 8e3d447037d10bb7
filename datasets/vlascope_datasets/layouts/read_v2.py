"""Metadata of formats v2.0 and v2.1: JSON lines, one data file and one video a camera for each episode.

Knows nothing of frames.
"""

from __future__ import annotations

from pathlib import Path

from vlascope_datasets.errors import DamagedError, well_formed
from vlascope_datasets.files import read_json, read_lines
from vlascope_datasets.info import DatasetInfo
from vlascope_datasets.layouts.episodes import Episode, Metadata, VideoSpan
from vlascope_datasets.statistics import Statistics, aggregate, to_arrays

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
    with well_formed(f"{root / 'meta'}: a line of tasks.jsonl or episodes.jsonl"):
        tasks = {int(line["task_index"]): str(line["task"]) for line in read_lines(root / TASKS)}
        lines = {int(line["episode_index"]): line for line in read_lines(root / EPISODES)}
        missing = [n for n in range(info.total_episodes) if n not in lines]
        if missing:
            raise DamagedError(f"{root / EPISODES}: episode {missing[0]} of {info.total_episodes} is missing")
        episodes, first = [], 0
        for n in range(info.total_episodes):
            length = int(lines[n]["length"])
            videos = {key: VideoSpan(video_file(info, n, key), 0.0, True) for key in info.video_keys}
            episodes.append(Episode(n, length, tuple(lines[n]["tasks"]), first, data_file(info, n), 0, videos))
            first += length

    def of_episodes() -> dict[int, Statistics]:
        path = root / EPISODE_STATISTICS
        if not path.is_file():
            return {}
        with well_formed(f"{path}: a line"):
            kept = {int(line["episode_index"]): line["stats"] for line in read_lines(path)}
            return {n: to_arrays(stats) for n, stats in kept.items() if n < info.total_episodes}

    def of_all() -> Statistics:
        kept = of_episodes()
        # v2.1 keeps none of the whole: a file that is there is left from v2.0, of the episodes that there were then
        if (info.version == "v2.0" or not kept) and (root / STATISTICS).is_file():
            with well_formed(f"{root / STATISTICS}"):
                return to_arrays(read_json(root / STATISTICS))
        return aggregate(kept.values())

    return Metadata(tasks, tuple(episodes), of_all, of_episodes)
