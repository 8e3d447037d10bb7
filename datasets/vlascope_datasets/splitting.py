"""Splits a dataset into disjoint ones by episode, each of them whole.

The option names and folders (`split_0`, ...) are those of the reference workflow for mixing models: one is trained on each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.files import PARTIAL
from vlascope_base.progress import Progress, silent
from vlascope_base.provenance import provenance

from vlascope_datasets.checksums import add, as_text
from vlascope_datasets.copying import PACKAGES, Copied, copy_episodes, without
from vlascope_datasets.errors import DamagedError, DatasetError
from vlascope_datasets.files import folder_bytes, must_be_outside, must_fit, write_json
from vlascope_datasets.info import INFO
from vlascope_datasets.reader import LeRobotDataset

RECORD = "split.json"
SPLITS, SEED = 4, 42
"""Those of the reference workflow."""


def choose_episodes(episodes: Sequence[int], split_num: int, seed: int) -> list[list[int]]:
    """Shuffles episodes and deals them out: `split_num` ascending lists whose lengths differ by at most one.

    Raises:
        DatasetError: there would be an empty one, or the seed is negative.
    """
    if seed < 0:
        raise DatasetError(f"seed: expected at least 0, found {seed}")
    if split_num < 1:
        raise DatasetError(f"split_num: expected at least 1, found {split_num}")
    total = len(episodes)
    if split_num > total:
        raise DatasetError(
            f"split_num: {split_num} splits of {total} episodes would leave one empty; use at most {total}"
        )
    shuffled = np.asarray(episodes)[np.random.default_rng(seed).permutation(total)]
    return [sorted(part.tolist()) for part in np.array_split(shuffled, split_num)]


def split_dataset(
    source: LeRobotDataset | str | Path,
    dst_path: str | Path,
    split_num: int = SPLITS,
    seed: int = SEED,
    progress: Progress = silent,
    *,
    drop_empty: bool = False,
) -> dict[str, Any]:
    """Writes `split_0` to `split_<n-1>` under `dst_path`, and `split.json` beside them and in the `meta/` of each.

    Each is a dataset of the source's version (v2.1 of a v2.0 source): frames, episodes and tasks numbered anew, statistics with
    them, images and encoded video as they were. What was written is read again and compared before it appears.

    Args:
        source: a LeRobot dataset, or its folder.
        dst_path: a folder that is absent or empty.
        split_num: how many.
        seed: of the shuffle.
        progress: called after each episode.
        drop_empty: whether episodes without frames are left out.

    Returns:
        What `split.json` holds.

    Raises:
        DatasetError: no dataset, a missing file, more splits than episodes, a folder that holds something, or no space.
        DamagedError: a file of the source is not what it should be.
    """
    source = source if isinstance(source, LeRobotDataset) else LeRobotDataset.open(source)
    target = Path(dst_path)
    _must_be_free(target)
    must_be_outside(target, source.root)
    episodes = without(source, empty=drop_empty)
    chosen = choose_episodes(episodes, split_num, seed)
    must_fit(target, folder_bytes(source.root))
    target.mkdir(parents=True, exist_ok=True)
    version = "v3.0" if source.info.version == "v3.0" else "v2.1"
    record = {
        "configuration": {
            "source_path": str(source.root.resolve()), "dst_path": str(target.resolve()), "split_num": split_num, "seed": seed,
            "drop_empty": drop_empty,
        },
        "source": identity(source),
        **provenance(*PACKAGES),
    }  # fmt: skip
    done = 0

    def one_more(what: str, *_: int) -> None:
        nonlocal done
        done += 1
        progress(what, done, len(episodes))

    splits, folders = [], [target / f"split_{number}" for number in range(split_num)]
    try:
        for folder, part in zip(folders, chosen, strict=True):
            partial = _partial(folder)
            copied = copy_episodes(source, part, partial, version, one_more)
            splits.append({"name": folder.name, **describe(copied), "tasks": _tasks(source, partial)})
            write_json(partial / "meta" / RECORD, {**record, "split": splits[-1]})
        record |= {"splits": splits, "total": _total(source, episodes, splits)}
    except BaseException:
        for folder in folders:
            shutil.rmtree(_partial(folder), ignore_errors=True)
        raise
    for folder in folders:
        os.replace(_partial(folder), folder)
    write_json(target / RECORD, record)
    return record


def identity(source: LeRobotDataset) -> dict[str, Any]:
    """Which dataset this is: path, version, counts and the sha256 of its `info.json`."""
    return {
        "path": str(source.root.resolve()),
        "version": source.info.version,
        "episodes": len(source.episodes),
        "frames": len(source),
        "robot_type": source.info.robot_type,
        "info_sha256": hashlib.sha256((source.root / INFO).read_bytes()).hexdigest(),
    }


def describe(copied: Copied) -> dict[str, Any]:
    """For JSON."""
    return {
        "episodes": len(copied.episodes),
        "frames": copied.frames,
        "checksum": as_text(copied.checksum),
        "source_episodes": list(copied.episodes),
        "video_encoded_again": list(copied.encoded_again),
    }


def _total(source: LeRobotDataset, episodes: Sequence[int], splits: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the splits; every one of `episodes` is in exactly one."""
    members = sorted(number for split in splits for number in split["source_episodes"])
    frames = sum(split["frames"] for split in splits)
    if members != list(episodes) or frames != len(source):
        raise DamagedError(f"{source.root}: {len(source)} frames, but its splits have {frames}")
    checksum = add(int(split["checksum"], 16) for split in splits)
    return {"episodes": len(members), "frames": frames, "checksum": as_text(checksum)}


def _tasks(source: LeRobotDataset, path: Path) -> list[dict[str, Any]]:
    """The split's task numbers, and what they were in the source."""
    numbers = {task: number for number, task in source.tasks.items()}
    return [
        {"task_index": n, "source_task_index": numbers.get(t), "task": t}
        for n, t in LeRobotDataset.open(path).tasks.items()
    ]


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{PARTIAL}")


def _must_be_free(target: Path) -> None:
    """Refuses a folder that holds something; what a killed split left is removed."""
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{target}: exists and is no folder; choose another destination")
    if not target.is_dir():
        return
    for path in target.iterdir():
        if not (path.name.startswith(".split_") and path.name.endswith(PARTIAL)):
            raise DatasetError(
                f"{target}: exists and is not empty ({path.name}); choose another destination, or empty it"
            )
    for path in target.iterdir():
        shutil.rmtree(path)
