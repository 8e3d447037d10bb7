"""The numbers of a dataset's frames, in memory: states, actions, masks, instructions; and the chunks that they make.

N frames, n of a batch, A action horizon, s and r the robot's widths of state and action.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from vlascope_base.text import counted, listed
from vlascope_datasets import LeRobotDataset

from vlascope_server.robots import RobotInputError, RobotIO
from vlascope_server.training.columns import Columns
from vlascope_server.training.options import TrainingError, TrainOptions

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Frames of some episodes, one episode behind the other.

    Attributes:
        episode, frame: which frame of the dataset each is.
        end: index behind the last frame of each one's episode.
        state: as `Reading.state`.
        actions: as the dataset has them; where a label is to be ignored, the one before it.
        followed: false where something else than the label was done.
        labelled: false where the label is to be ignored.
        prompt: number in `prompts`.
        prompts: the instructions.
        targets: one of `columns.QUESTIONS` and model slot -> where that is seen, as shares of the camera's picture from its
            left and top; -1 where it is not. For those of which the dataset says so.
    """

    episode: Int[np.ndarray, " N"]
    frame: Int[np.ndarray, " N"]
    end: Int[np.ndarray, " N"]
    state: Float[np.ndarray, "N s"]
    actions: Float[np.ndarray, "N r"]
    followed: Bool[np.ndarray, " N"]
    labelled: Bool[np.ndarray, " N"]
    prompt: Int[np.ndarray, " N"]
    prompts: tuple[str, ...]
    targets: Mapping[tuple[str, str], Float[np.ndarray, "N 2"]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Frames."""
        return len(self.episode)

    def chunks(
        self, rows: Int[np.ndarray, " n"], horizon: int, pad: Literal["mask", "repeat"]
    ) -> tuple[Float[np.ndarray, "n A r"], Bool[np.ndarray, "n A"]]:
        """The actions from each row on, and which of them a policy is to be held to.

        Beyond the episode's end the last one is repeated. A label counts as long as every action of the chunk before it was
        followed: after something else was done it answers what nobody could foresee at the chunk's start.
        """
        at = rows[:, None] + np.arange(horizon)
        real = at < self.end[rows, None]
        at = np.minimum(at, self.end[rows, None] - 1)
        followed = np.where(real, self.followed[at], True)
        foreseen = np.logical_and.accumulate(np.pad(followed[:, :-1], ((0, 0), (1, 0)), constant_values=True), axis=1)
        mask = foreseen & self.labelled[at]
        return self.actions[at], mask & real if pad == "mask" else mask


def read_frames(dataset: LeRobotDataset, robot: RobotIO, columns: Columns, episodes: Sequence[int]) -> Frames:
    """Reads the numbers of episodes; decodes no image.

    Raises:
        TrainingError: a value that the robot cannot have; names dataset, episode and frame.
        DatasetError: a file is missing or damaged.
    """
    blank = np.zeros((2, 2, 3), np.uint8)
    images = dict.fromkeys(robot.spec.cameras.values(), blank)
    masks = [mask for mask in (columns.followed, columns.labelled) if mask]
    keys = list(
        dict.fromkeys([*columns.state.values(), columns.actions, "task_index", *masks, *columns.targets.values()])
    )
    prompts = {number: place for place, number in enumerate(sorted(dataset.tasks))}
    parts: list[tuple[np.ndarray, ...]] = []
    places: dict[tuple[str, str], list[np.ndarray]] = {asked: [] for asked in columns.targets}
    start = 0
    for number in episodes:
        table = dataset.frames(number, keys)
        length = dataset.episode(number).length
        states = []
        for frame in range(length):
            state = {key: table[column][frame] for key, column in columns.state.items()}
            try:
                states.append(robot.read(columns.observation(state, images, "")).state)
            except RobotInputError as error:
                raise TrainingError(f"{dataset.root}: episode {number}, frame {frame}: {error}") from None
        actions = table[columns.actions]
        yes = np.ones(length, bool)
        followed, labelled = (
            table[mask].reshape(-1).astype(bool) if mask else yes for mask in (columns.followed, columns.labelled)
        )
        actions = actions[_labelled_before(labelled)]
        if not np.isfinite(actions).all() and labelled.any():
            frame, dimension = np.argwhere(~np.isfinite(actions))[0]
            raise TrainingError(
                f"{dataset.root}: episode {number}, frame {frame}: {columns.actions}: number {dimension} is"
                f" {actions[frame, dimension]}; repair the dataset, or leave the episode out with --episodes"
            )
        told = table["task_index"].reshape(-1)
        if unknown := set(told.tolist()) - set(prompts):
            raise TrainingError(
                f"{dataset.root}: episode {number}: task {unknown.pop()} has no instruction among the dataset's tasks;"
                " repair the dataset, or leave the episode out with --episodes"
            )
        listed = dataset.episode(number).tasks
        strangers = {dataset.tasks[int(task)] for task in told} - set(listed)
        if listed and strangers:
            raise TrainingError(
                f"{dataset.root}: episode {number}: its rows are of the task {strangers.pop()!r}, its metadata list"
                f" {list(listed)}; repair the dataset, or leave the episode out with --episodes"
            )
        tasks = np.array([prompts[int(task)] for task in told])
        for asked, column in columns.targets.items():
            places[asked].append(table[column].astype(np.float32))
        start += length
        parts.append(
            (
                np.full(length, number), np.arange(length), np.full(length, start), np.stack(states),
                np.asarray(actions, np.float64), followed, labelled, tasks,
            )
        )  # fmt: skip
    episode, frame, end, state, acted, follow, label, prompt = map(np.concatenate, zip(*parts, strict=True))
    instructions = tuple(dataset.tasks[number] for number in sorted(dataset.tasks))
    targets = {asked: np.concatenate(parts) for asked, parts in places.items()}
    return Frames(episode, frame, end, state, acted, follow, label, prompt, instructions, targets)


def _labelled_before(labelled: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each frame the last one up to it that has a label, or the first that has: what stands in for a label to ignore.

    It is not learnt, but every action of a chunk sees it.
    """
    if not labelled.any():
        return np.arange(len(labelled))
    places = np.where(labelled, np.arange(len(labelled)), -1)
    return np.maximum(np.maximum.accumulate(places), np.flatnonzero(labelled)[0])


def find_episodes(
    dataset: LeRobotDataset, episodes: Sequence[int] | None = None, tasks: Sequence[str] | None = None
) -> list[int]:
    """The episodes that are asked for and have frames, in order.

    Args:
        dataset: to choose from.
        episodes: their numbers; all unless given.
        tasks: only episodes of these instructions alone; all unless given.

    Raises:
        TrainingError: an episode or instruction that the dataset does not have, or nothing left.
    """
    chosen = list(range(len(dataset.episodes)))
    if episodes is not None:
        if unknown := sorted(set(episodes) - set(chosen)):
            raise TrainingError(f"episodes: {dataset.root} has no episode {unknown[0]}; it has 0 to {len(chosen) - 1}")
        chosen = sorted(set(episodes))
    if tasks is not None:
        known = set(dataset.tasks.values())
        if unknown := sorted(set(tasks) - known):
            raise TrainingError(f"tasks: {dataset.root} has no {unknown[0]!r}; it has {sorted(known)}")
        for number in chosen:
            if unlisted := sorted(set(dataset.episodes[number].tasks) - known):
                raise TrainingError(
                    f"tasks: {dataset.root}: episode {number} lists {unlisted[0]!r}, which is none of the dataset's tasks, so"
                    " that episodes cannot be chosen by task; correct its metadata, or choose with --episodes"
                )
        chosen = [number for number in chosen if set(dataset.episodes[number].tasks) <= set(tasks)]
    if empty := [number for number in chosen if not dataset.episodes[number].length]:
        _log.warning("%s: left out %s without frames: %s", dataset.root, counted(len(empty), "episode"), listed(empty))
        chosen = [number for number in chosen if dataset.episodes[number].length]
    if not chosen:
        raise TrainingError(f"{dataset.root}: no episode is left; allow more with --episodes or --tasks")
    return chosen


def choose_episodes(dataset: LeRobotDataset, options: TrainOptions) -> tuple[list[int], list[int]]:
    """The episodes to train on, and those held out for validation, which depend on the seed alone.

    Raises:
        TrainingError: as `find_episodes`.
    """
    chosen = find_episodes(dataset, options.episodes, options.tasks)
    held = min(len(chosen) - 1, max(1, round(options.validation * len(chosen)))) if options.validation else 0
    order = np.random.default_rng([options.seed, 1]).permutation(len(chosen))
    validation = sorted(chosen[place] for place in order[:held])
    return [number for number in chosen if number not in set(validation)], validation
