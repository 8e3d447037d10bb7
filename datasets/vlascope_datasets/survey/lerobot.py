"""Surveys a LeRobot dataset, reading every number and a few images of every episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from vlascope_base.progress import Progress

from vlascope_datasets.errors import DatasetError, UnreadError
from vlascope_datasets.features import INDEX_FEATURES
from vlascope_datasets.files import folder_bytes, inside, read_json
from vlascope_datasets.info import INFO
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.survey.episodes import Anomaly, EpisodeFacts, Facts, direction_of, find_action_key
from vlascope_datasets.tables import open_table
from vlascope_datasets.video import TOLERANCE, describe

# LeRobot refuses to load what is further off
_TIMESTAMP_TOLERANCE = 1e-4
_BLANK_STD = 2.0


def survey_lerobot(root: Path, progress: Progress, *, images: bool = True, tolerance_s: float = TOLERANCE) -> Facts:
    """Reads a dataset.

    Args:
        root: its folder.
        progress: called after each.
        images: whether to look at the first, middle and last image of every camera.
        tolerance_s: seconds that a video's frame may be off its row's timestamp.

    Raises:
        DatasetError: its metadata cannot be read; what is wrong beyond that is listed, and nothing is raised.
    """
    dataset = LeRobotDataset.open(root, cache_bytes=0, tolerance_s=tolerance_s, strict=False)
    info = dataset.info
    action_key = find_action_key(info.columns)
    names = _names(info.features[action_key]) if action_key else []
    facts = Facts(
        f"LeRobot {info.version}", str(root), folder_bytes(root), [], info.fps, info.robot_type,
        {k: {"dtype": f["dtype"], "shape": list(f["shape"])} for k, f in info.features.items()}, action_key, names,
    )  # fmt: skip
    facts.unread = info.unread
    sharing: dict[str, int] = {}
    for episode in dataset.episodes:
        for file in _files(episode):
            sharing[file] = sharing.get(file, 0) + episode.length
    for episode in dataset.episodes:
        found = EpisodeFacts(f"episode {episode.index}", episode.file, 0, episode.length, " / ".join(episode.tasks))
        found.direction = direction_of(found.task)
        for file in _files(episode):
            path = root / file
            if path.is_file():
                found.nbytes += round(path.stat().st_size * episode.length / max(1, sharing[file]))
        if unlisted := sorted(set(episode.tasks) - set(dataset.tasks.values())):
            found.report(
                "unknown_task", f"lists {unlisted[0]!r}, which is none of the dataset's {len(dataset.tasks)} tasks"
            )
        if episode.length < 1:
            found.report("empty", "no frames")
        else:
            _read(dataset, episode.index, found, action_key)
        if images and not any(anomaly.kind in ("empty", "unreadable", "missing_file") for anomaly in found.anomalies):
            _look(dataset, episode.index, found)
        facts.episodes.append(found)
        progress("reading episodes", len(facts.episodes), len(dataset.episodes))
    facts.anomalies += _whole(dataset, sharing)
    return facts


def _names(feature: dict) -> list[str]:
    names = feature.get("names")
    if isinstance(names, dict):
        names = next((value for value in names.values() if isinstance(value, list)), None)
    return [str(name) for name in names] if isinstance(names, list) and len(names) == feature["shape"][0] else []


def _files(episode) -> list[str]:
    return [episode.file, *(span.file for span in episode.videos.values())]


def _read(dataset: LeRobotDataset, number: int, found: EpisodeFacts, action_key: str | None) -> None:
    try:
        columns = dataset.frames(number)
    except DatasetError as error:
        found.report("unreadable" if (dataset.root / found.file).is_file() else "missing_file", str(error))
        return
    episode, fps = dataset.episode(number), dataset.info.fps
    frame = np.arange(episode.length)
    if "frame_index" in columns and (columns["frame_index"] != frame).any():
        found.report("frame_index", f"not 0 to {episode.length - 1}")
    if "index" in columns and (columns["index"] != frame + episode.first_frame).any():
        found.report("index", f"not {episode.first_frame} to {episode.first_frame + episode.length - 1}")
    if "timestamp" in columns:
        off = np.abs(columns["timestamp"].astype(np.float64) - frame / fps)
        if off.max() > max(_TIMESTAMP_TOLERANCE, float(np.spacing(np.float32(episode.length / fps)))):
            found.report(
                "timestamp", f"frame {int(off.argmax())} is {off.max():.4g} s off the grid of {fps:g} frames a second"
            )
    used = set(columns["task_index"].tolist()) if "task_index" in columns else set()
    if unknown := used - set(dataset.tasks):
        found.report("unknown_task", f"task {sorted(unknown)[0]} is not among the dataset's {len(dataset.tasks)}")
    elif (
        used
        and set(episode.tasks) <= set(dataset.tasks.values())
        and {dataset.tasks[task] for task in used} != set(episode.tasks)
    ):
        named = " / ".join(dataset.tasks[task] for task in sorted(used))
        found.report(
            "contradiction", f"its rows are of the task {named!r}, the metadata list {' / '.join(episode.tasks)!r}"
        )
    numbers = {k: v for k, v in columns.items() if v.dtype.kind in "fiub" and k not in INDEX_FEATURES}
    found.examine(numbers, action_key)


def _look(dataset: LeRobotDataset, number: int, found: EpisodeFacts) -> None:
    length = found.length
    for key in dataset.info.camera_keys:
        span = dataset.episode(number).videos.get(key)
        file = span.file if span else found.file
        if not (dataset.root / file).is_file():
            found.report("missing_file", f"{dataset.root / file}: missing", file)
            continue
        try:
            seen = dataset.images(number, key, sorted({0, length // 2, length - 1}))
        except UnreadError as error:
            found.report("not_read", str(error), file)
            continue
        except DatasetError as error:
            found.report("unreadable", str(error), file)
            continue
        expected = sorted(dataset.info.features[key]["shape"])
        if sorted(seen.shape[1:]) != expected:
            found.report(
                "image_size", f"{key}: {seen.shape[1:]}, declared {tuple(dataset.info.features[key]['shape'])}", file
            )
        if (seen.reshape(len(seen), -1).std(axis=1) < _BLANK_STD).any():
            found.report("blank_camera", f"{key}: an image of one colour", file)
        elif len(seen) > 1 and (seen == seen[0]).all():
            found.report("frozen_camera", f"{key}: the first, middle and last image are the same", file)


def _whole(dataset: LeRobotDataset, sharing: dict[str, int]) -> list[Anomaly]:
    """What no single episode shows: counts, and files that no episode uses or that hold too few frames."""
    root, info = dataset.root, dataset.info
    found = [
        Anomaly(file, "count" if file == INFO else "contradiction", detail) for file, detail in dataset.contradictions
    ]
    raw, sound = read_json(root / INFO), info.to_map()
    # nobody reads these, and other writers leave them as they were
    for name in ("total_videos", "total_chunks"):
        if name in raw and name in sound and raw[name] != sound[name]:
            found.append(Anomaly(INFO, "count", f"{name} is {raw[name]!r}, the episodes make it {sound[name]}"))
    try:
        kept = [dataset.statistics, *dataset.episode_statistics().values()]
    except DatasetError as error:
        found.append(Anomaly("meta", "statistics", str(error)))
    else:
        if odd := sorted({key for part in kept for key in part} - set(info.features)):
            found.append(Anomaly("meta", "statistics", f"of {odd[0]}, which is no feature"))
    for folder, suffix in (("data", "*.parquet"), ("videos", "*.mp4")):
        for path in sorted((root / folder).rglob(suffix)):
            name = path.relative_to(root).as_posix()
            if name not in sharing:
                found.append(Anomaly(name, "unused_file", "no episode uses it"))
    for name in sorted({episode.file for episode in dataset.episodes}) if info.version == "v3.0" else ():
        try:
            held = open_table(inside(root, name)).metadata.num_rows
        except DatasetError:
            continue  # said of its episodes already
        if held != sharing[name]:
            found.append(Anomaly(name, "data_rows", f"holds {held} rows, its episodes have {sharing[name]} frames"))
    for name in sorted({span.file for episode in dataset.episodes for span in episode.videos.values()}):
        try:
            held = describe(inside(root, name))
        except DatasetError:
            continue  # said of its episode already
        if held["frames"] != sharing[name]:
            found.append(
                Anomaly(name, "video_frames", f"holds {held['frames']} frames, its episodes have {sharing[name]}")
            )
        if abs(held["video.fps"] - info.fps) > 0.01:
            found.append(
                Anomaly(name, "video_rate", f"{held['video.fps']:g} frames a second, the dataset has {info.fps:g}")
            )
    return found
