"""From facts to `dataset_statistics.json`: totals, lengths, tasks, directions, balance, actions, anomalies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from vlascope_base.progress import Progress, silent

from vlascope_datasets.errors import DatasetError
from vlascope_datasets.info import INFO
from vlascope_datasets.survey.balance import balance
from vlascope_datasets.survey.episodes import EpisodeFacts, Facts, Summary, compare
from vlascope_datasets.survey.folders import survey_folder
from vlascope_datasets.survey.lerobot import survey_lerobot
from vlascope_datasets.video import TOLERANCE

QUANTILES = {"q01": 0.01, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q99": 0.99}


def gather(
    path: str | Path,
    progress: Progress = silent,
    *,
    images: bool = True,
    tolerance_s: float = TOLERANCE,
) -> Facts:
    """Surveys a LeRobot dataset, or a folder of HDF5 or NPZ episodes.

    Args:
        path: the folder, or one HDF5 or NPZ file.
        progress: called after each episode (LeRobot) or file.
        images: whether to look at a few images of every episode, where the format's images can be read one by one.
        tolerance_s: seconds that a video's frame may be off its row's timestamp (LeRobot).

    Raises:
        DatasetError: it is none of these.
    """
    root = Path(path)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    facts = (
        survey_lerobot(root, progress, images=images, tolerance_s=tolerance_s)
        if (root / INFO).is_file()
        else survey_folder(root, progress)
    )
    compare(facts.episodes)
    return facts


def summarise(facts: Facts) -> Summary:
    """What `dataset_statistics.json` holds, but for what it was made with."""
    directions = Counter(episode.direction for episode in facts.episodes if episode.direction)
    tasks = _grouped(facts.episodes)
    return {
        "format": facts.format,
        "path": facts.root,
        "total_episodes": len(facts.episodes),
        "total_frames": sum(episode.length for episode in facts.episodes),
        "total_bytes": facts.nbytes,
        "fps": facts.fps,
        "robot_type": facts.robot_type,
        "features": facts.features,
        "not_read": facts.unread,
        "lengths": _lengths(facts),
        "bytes_per_episode": _spread(np.array([episode.nbytes for episode in facts.episodes])),
        "tasks": tasks,
        "directions": dict(directions.most_common()),
        "episodes_without_direction": len(facts.episodes) - directions.total(),
        "balance": {
            "tasks": balance({task: each["episodes"] for task, each in tasks.items()}),
            "directions": balance(directions),
        },
        "actions": _actions(facts),
        "anomalies": _anomalies(facts),
        "episodes": [
            {
                "name": episode.name,
                "file": episode.file,
                "frames": episode.length,
                "bytes": episode.nbytes,
                "task": episode.task,
                "direction": episode.direction or None,
                "anomalies": [anomaly.kind for anomaly in episode.anomalies],
            }
            for episode in facts.episodes
        ],
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {
        "min": int(values.min()),
        "max": int(values.max()),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "median": float(np.median(values)),
    }


def _lengths(facts: Facts) -> Summary | None:
    spread = _spread(np.array([episode.length for episode in facts.episodes]))
    if spread and facts.fps:
        spread["mean_seconds"] = spread["mean"] / facts.fps
    return spread


def _grouped(episodes: list[EpisodeFacts]) -> dict[str, dict[str, int]]:
    counts, frames = Counter(e.task for e in episodes), Counter[str]()
    for episode in episodes:
        frames[episode.task] += episode.length
    return {task: {"episodes": count, "frames": frames[task]} for task, count in counts.most_common()}


def _actions(facts: Facts) -> Summary | None:
    """Of finite sampled actions, by dimension; None where episodes have none, or not of one width."""
    sampled = [episode.actions for episode in facts.episodes if episode.actions is not None]
    if not sampled or len({actions.shape[1] for actions in sampled}) > 1:
        return None
    actions = np.concatenate(sampled)
    actions = actions[np.isfinite(actions).all(axis=1)]
    if not len(actions):
        return None
    names = facts.action_names or [str(n) for n in range(actions.shape[1])]
    quantiles = np.quantile(actions, list(QUANTILES.values()), axis=0)
    return {
        "key": facts.action_key,
        "sampled_frames": len(actions),
        "dimensions": [
            {
                "name": name,
                "min": float(actions[:, n].min()),
                "max": float(actions[:, n].max()),
                "mean": float(actions[:, n].mean()),
                "std": float(actions[:, n].std()),
                **{label: float(quantiles[row, n]) for row, label in enumerate(QUANTILES)},
            }
            for n, name in enumerate(names)
        ],
    }


def _anomalies(facts: Facts) -> Summary:
    found = facts.all_anomalies()
    by_file: dict[str, list[Summary]] = {}
    for anomaly in found:
        line = {"kind": anomaly.kind, "detail": anomaly.detail}
        by_file.setdefault(anomaly.file, []).append(line | ({"episode": anomaly.episode} if anomaly.episode else {}))
    kinds = Counter(anomaly.kind for anomaly in found)
    return {"count": len(found), "by_kind": dict(kinds.most_common()), "by_file": dict(sorted(by_file.items()))}
