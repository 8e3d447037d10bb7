"""Frames of a LeRobot dataset as a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from vlascope_datasets import LeRobotDataset
from vlascope_datasets.checksums import pictures_checksum
from vlascope_latents import CaptureSpec

from vlascope_server.capturing.options import CaptureError, CaptureOptions, check_prompt
from vlascope_server.capturing.recording import Moment, RecordedEpisode, digest, noise_seeds, told_otherwise
from vlascope_server.robots import RobotSpec
from vlascope_server.robots.arithmetic import held_by_float32
from vlascope_server.training.columns import Columns, find_columns
from vlascope_server.training.frames import find_episodes

_SUCCESS = "next.success"
"""LeRobot's column that is true once the goal was reached."""


class DatasetFrames:
    """Frames of a dataset, as a `Recording`.

    Attributes:
        episodes: in order of their numbers.
        about: the dataset.
        capture_spec: None: nothing was captured when it was recorded.
        policies: none is known.
    """

    def __init__(
        self, dataset: LeRobotDataset, columns: Columns, robot: RobotSpec, episodes: Mapping[int, RecordedEpisode]
    ):
        self.episodes = tuple(episodes.values())
        self.about: Mapping[str, object] = {
            "kind": "dataset", "folder": str(dataset.root.resolve()), "name": dataset.root.resolve().name,
            "version": dataset.info.version, "fps": dataset.info.fps,
            "columns": {**{robot.cameras[slot]: column for slot, column in columns.cameras.items()}, **columns.state},
        }  # fmt: skip
        self.capture_spec: CaptureSpec | None = None
        self.policies: Mapping[str, str] = {}
        self._dataset, self._columns, self._robot, self._numbers = dataset, columns, robot, tuple(episodes)

    @classmethod
    def open(cls, options: CaptureOptions, robot: RobotSpec) -> DatasetFrames:
        """Opens a dataset and reads the frames of the episodes that are asked for; decodes no image.

        Raises:
            DatasetError: it cannot be read, or an image in its tables is none.
            TrainingError: it lacks what the robot sends, or an episode that is asked for.
            CaptureError: an episode has frames of several instructions, or a state that float32 cannot hold.
        """
        path = options.dataset
        assert path is not None, "chosen by the options"  # noqa: S101
        dataset = LeRobotDataset.open(path, tolerance_s=options.tolerance_s)
        columns = find_columns(dataset.info, str(dataset.root), robot, options.columns)
        numbers = find_episodes(dataset, options.episodes, options.tasks)
        return cls(
            dataset, columns, robot, {number: _recorded(dataset, columns, number, options) for number in numbers}
        )

    def check(self, robot: RobotSpec) -> None:
        """Nothing that `open` has not looked at."""

    def telling(self, episodes: Sequence[int]) -> Sequence[int]:
        """The first of each instruction: beside that, the frames of a dataset have the same features."""
        first: dict[str, int] = {}
        for episode in episodes:
            first.setdefault(self.episodes[episode].instruction, episode)
        return list(first.values())

    def moments(self, episode: int, first: int, stop: int) -> list[Moment]:
        """Frames `first` to `stop` of those that are to be captured of an episode."""
        recorded, number = self.episodes[episode], self._numbers[episode]
        rows = list(recorded.rows[first:stop])
        table = self._dataset.frames(number, list(self._columns.state.values()))
        images = {
            self._robot.cameras[slot]: self._dataset.images(number, column, rows)
            for slot, column in self._columns.cameras.items()
        }
        return [
            Moment(
                self._columns.observation(
                    {key: table[column][row] for key, column in self._columns.state.items()},
                    {key: pictures[place] for key, pictures in images.items()},
                    recorded.instruction,
                )
            )
            for place, row in enumerate(rows)
        ]

    def place(self, episode: int, frame: int) -> str:
        """The dataset, the episode and the frame."""
        return f"{self._dataset.root}: episode {self._numbers[episode]}, frame {self.episodes[episode].rows[frame]}"


def _recorded(dataset: LeRobotDataset, columns: Columns, number: int, options: CaptureOptions) -> RecordedEpisode:
    succeeds = _SUCCESS in dataset.info.columns
    keys = [*columns.state.values(), "task_index", *([_SUCCESS] if succeeds else [])]
    table = dataset.frames(number, list(dict.fromkeys(keys)))
    length, where = dataset.episode(number).length, f"{dataset.root}: episode {number}"
    rows = np.arange(0, length, options.stride or 1)
    states = {key: table[column][rows] for key, column in columns.state.items()}
    for key, values in states.items():
        held = held_by_float32(values)
        if not held.all():
            frame = rows[np.flatnonzero(~held.reshape(len(rows), -1).all(axis=1))[0]]
            raise CaptureError(
                f"{where}, frame {frame}: {columns.state[key]}: holds a value that is no finite number in float32; repair the"
                " dataset, or leave the episode out with --episodes"
            )
    told = np.unique(table["task_index"].reshape(-1)[rows])
    if unknown := [int(task) for task in told if int(task) not in dataset.tasks]:
        raise CaptureError(
            f"{where}: task {unknown[0]} has no instruction among the dataset's tasks; repair the dataset, or leave the episode"
            " out with --episodes"
        )
    if len(told) > 1:
        raise CaptureError(
            f"{where}: its frames are of {len(told)} instructions, and the store keeps one an episode; leave it out with"
            " --episodes, or choose frames of one with --stride"
        )
    task = int(told[0])
    check_prompt(f"{where}: instruction", dataset.tasks[task])
    name, timesteps, seed = f"episode-{number:06d}", tuple(rows.tolist()), options.origin_of_seeds
    assert seed is not None, "a dataset's inferences had no seeds"  # noqa: S101
    metadata = {
        "task_id": task,
        "task_instruction": dataset.tasks[task],
        "episode_index": number,
        "seed": seed,
        "prompt_mode": "task",
        "captured_from": {"kind": "dataset", "dataset": dataset.root.resolve().name, "episode": number},
    }
    return RecordedEpisode(
        name=name,
        instruction=dataset.tasks[task] if options.prompt is None else options.prompt,
        metadata=metadata if options.prompt is None else told_otherwise(metadata),
        success=bool(table[_SUCCESS].any()) if succeeds else None,
        total_steps=length,
        ended={},
        rows=timesteps,
        timesteps=timesteps,
        seeds=noise_seeds(seed, name, timesteps),
        content=digest(
            {
                "states": {key: [v.dtype.str, v.shape, v.tobytes().hex()] for key, v in states.items()},
                "pictures": pictures_checksum(dataset, number, columns.cameras.values(), timesteps),
            }
        ),
    )
