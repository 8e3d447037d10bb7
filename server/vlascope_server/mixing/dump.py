"""Makes validation data of a dataset: chooses episodes and frames, and writes what the training transforms make of them.

Nothing is augmented, and no noise is added to the state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int
from vlascope_base.files import make_folders, why_unwritable
from vlascope_base.options import record_of
from vlascope_base.progress import Progress, silent
from vlascope_base.provenance import machine, now, provenance
from vlascope_base.text import readable_bytes
from vlascope_datasets import LeRobotDataset

from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.mixing.dump_options import EPISODES_OF_A_PART, DumpOptions
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.facts import PARTS, ValidationFacts
from vlascope_server.mixing.validation import write_validation_data
from vlascope_server.policies.pi0.assembly import find_cameras, find_robot
from vlascope_server.training.columns import find_columns
from vlascope_server.training.data import Data, prepare_data
from vlascope_server.training.frames import find_episodes, read_frames
from vlascope_server.training.image_cache import ImageCache
from vlascope_server.training.loader import Batch

_BATCH = 16
"""Frames in memory at once."""
_PACKAGES = "vlascope-server", "vlascope-datasets", "numpy", "pillow", "zarr"


@dataclasses.dataclass(frozen=True)
class Dumped:
    """What was written.

    Attributes:
        path: the file.
        frames, episodes: how many there are in each of `PARTS`.
    """

    path: Path
    frames: tuple[int, ...]
    episodes: tuple[int, ...]


def dump_validation_data(options: DumpOptions, progress: Progress = silent) -> Dumped:
    """Writes the file, whole or not at all. Says on stderr how many bytes it takes before any image is read.

    Raises:
        MixingError: the file exists, or there are too few episodes for two parts.
        TrainingError: dataset, robot, checkpoint and options do not fit each other.
        CheckpointError: the checkpoint cannot be opened.
        DatasetError: the dataset cannot be read.
    """
    _refuse_existing(options)
    dataset = LeRobotDataset.open(options.dataset, tolerance_s=options.tolerance_s)
    checkpoint = load_checkpoint(options.checkpoint, options, dtype="float32", weights=False)
    robot = find_robot(options.checkpoint, checkpoint, options.robot)
    columns = find_columns(dataset.info, str(dataset.root), robot.spec, options.columns)
    config = dataclasses.replace(checkpoint.config, cameras=find_cameras(options.checkpoint, checkpoint, robot))
    frames = read_frames(dataset, robot, columns, find_episodes(dataset, options.episodes, options.tasks))
    # a cache holds whole episodes, of which few frames are wanted here
    images = ImageCache(dataset, columns.cameras, config.vision.image_size, None)
    data = prepare_data(options.checkpoint, checkpoint, config, robot, [frames], images, options)
    usable = data.parts[0].rows
    parts = choose_frames(frames.episode[usable], options, str(dataset.root))
    part = np.repeat(np.arange(len(PARTS)), [len(chosen) for chosen in parts])
    rows = usable[np.concatenate(parts)]
    episode, frame = frames.episode[rows], frames.frame[rows]
    facts = ValidationFacts(
        pi05=config.pi05,
        action_horizon=config.action_horizon,
        max_token_len=data.trimmed.max_token_len,
        cameras=config.cameras,
        image_size=config.vision.image_size,
        action_dim=config.action_dim,
        state_in_prompt=data.state_in_prompt,
        vocabulary=config.vocabulary,
        tokenizer=hashlib.sha256(data.tokenizer.path.read_bytes()).hexdigest(),
        robot=robot.spec.name,
        normalisation=data.conventions.normalisation,
        delta_actions=data.conventions.delta_actions,
        norm_stats=data.norm_stats,
        norm_stats_count=data.norm_stats_count,
        carrying=tuple(data.carrying.tolist()),
        dataset=dataset.root.resolve().name,
        episodes={name: tuple(np.unique(episode[part == k]).tolist()) for k, name in enumerate(PARTS)},
        seed=options.seed,
        options=record_of(options),
        provenance=provenance(*_PACKAGES) | {"machine": machine(), "time": now()},
    )
    print(f"writing at most {readable_bytes(_bytes(facts, len(rows)))} to {options.output}", file=sys.stderr)
    make_folders(options.output.parent)
    write_validation_data(options.output, facts, part, episode, frame, _made(data, rows, progress))
    return Dumped(options.output, tuple(map(len, parts)), tuple(len(facts.episodes[name]) for name in PARTS))


def choose_frames(
    episode: Int[np.ndarray, " N"], options: DumpOptions, dataset: str
) -> tuple[Int[np.ndarray, " s"], Int[np.ndarray, " v"]]:
    """Draws episodes for each part, and frames of them; both follow from the seed.

    A part gets as large a share of the frames as it has of the episodes. Within it, frames are dealt out to its episodes in
    turns, so that two episodes differ by more than one frame only where the shorter one has no more.

    Args:
        episode: of each frame that can be used.
        options: how many frames, which share, and the seed.
        dataset: for messages.

    Returns:
        Places in `episode` for each of `PARTS`, in ascending order.

    Raises:
        MixingError: a part would have fewer than two episodes; says how many there are.
    """
    numbers = np.unique(episode)
    held = round(options.validation_share * len(numbers))
    split = len(numbers) - held, held
    if min(split) < EPISODES_OF_A_PART:
        raise MixingError(
            f"{dataset}: {len(numbers)} episodes with frames to be held to, of which --validation-share"
            f" {options.validation_share:g} leaves {split[0]} to choose weights on and {split[1]} to judge them; at least"
            f" {EPISODES_OF_A_PART} of each are needed: allow more with --episodes or --tasks, or give another share"
        )
    rng = np.random.default_rng([options.seed, 4])
    order = rng.permutation(numbers)
    least, wanted = EPISODES_OF_A_PART, min(options.frames, len(episode))
    judged = min(max(round(wanted * held / len(numbers)), least), wanted - least)
    counts = wanted - judged, judged
    return tuple(
        _deal(episode, chosen, count, rng) for chosen, count in zip((order[held:], order[:held]), counts, strict=True)
    )  # pyright: ignore[reportReturnType]


def _deal(
    episode: Int[np.ndarray, " N"], order: Int[np.ndarray, " E"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Places of `count` frames: the first of each episode's shuffled frames, then the second of each, and so on."""
    rows = [rng.permutation(np.flatnonzero(episode == number)) for number in order]
    turn = np.concatenate([np.arange(len(each)) for each in rows])
    place = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    return np.sort(np.concatenate(rows)[np.lexsort((place, turn))[:count]])


def _made(data: Data, rows: Int[np.ndarray, " N"], progress: Progress) -> Iterator[Batch]:
    for start in range(0, len(rows), _BATCH):
        progress("frames", start, len(rows))
        some = rows[start : start + _BATCH]
        yield data.parts[0].make(some, len(some), None, 0.0)


def _bytes(facts: ValidationFacts, frames: int) -> int:
    """Of all arrays before compression, a few bytes a frame left out."""
    images = len(facts.cameras) * facts.image_size**2 * 3
    numbers = 4 * facts.action_dim * (1 + facts.action_horizon) + facts.action_horizon + 5 * facts.max_token_len
    return frames * (images + numbers)


def _refuse_existing(options: DumpOptions) -> None:
    if options.output.is_dir():
        raise MixingError(f"{options.output}: is a folder; name a file with --output")
    if why := why_unwritable(options.output.absolute()):
        raise MixingError(f"{options.output}: {why}; choose a folder elsewhere with --output")
    if options.output.exists() and not options.overwrite:
        raise MixingError(f"{options.output}: exists; replace it with --overwrite, or choose another --output")
