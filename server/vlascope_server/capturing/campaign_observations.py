"""The observations that a campaign of rollouts saved, as a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.text import listed
from vlascope_latents import CaptureSpec, CaptureSpecError
from vlascope_latents.store import StoreError
from vlascope_latents.store.run_folder import split_id
from vlascope_latents.store.sealing import check_said_at_end

from vlascope_server.capturing.observation_file import ObservationFile
from vlascope_server.capturing.options import CaptureError, CaptureOptions
from vlascope_server.capturing.recording import Moment, RecordedEpisode, noise_seeds, told_otherwise
from vlascope_server.robots import RobotSpec

_FOLDER = "observations"


class CampaignObservations:
    """The saved observations in the folder of a campaign, as a `Recording`.

    Attributes:
        episodes: in order of their names.
        about: the folder, and the campaigns that are in it.
        policies: that acted in it.
    """

    def __init__(self, folder: Path, files: Sequence[ObservationFile], episodes: Sequence[RecordedEpisode]):
        self.episodes = tuple(episodes)
        self._files = tuple(files)
        self._held: tuple[int, dict[str, np.ndarray]] | None = None
        campaigns = dict.fromkeys(split_id(file.about["episode"]["id"])[0] for file in files)
        self.about: Mapping[str, object] = {
            "kind": "observations", "folder": str(folder.resolve()), "campaigns": list(campaigns),
        }  # fmt: skip
        said = [file.about["policy"] for file in files]
        self.policies = {str(policy.get("fingerprint")): str(policy.get("checkpoint")) for policy in said}

    @classmethod
    def open(cls, options: CaptureOptions) -> CampaignObservations:
        """Opens the files of the episodes that are asked for.

        Raises:
            CaptureError: there are none, one is damaged or of another version, or nothing is left of them.
        """
        folder = options.observations
        assert folder is not None, "chosen by the options"  # noqa: S101
        paths = sorted((folder / _FOLDER).glob("*.npz"))
        if not paths:
            raise CaptureError(
                f"{folder}: expected a campaign's folder with saved observations, found no {_FOLDER}/*.npz in it: give that"
                " of a rollout that ran with --save-observations"
            )
        files, episodes, numbers, told = [], [], set(), set()
        by_name: dict[str, Path] = {}
        for path in paths:
            file = ObservationFile.open(path)
            number, prompt = file.about["episode"].get("episode_index"), file.about["prompt"]
            numbers.add(number)
            told.add(prompt)
            if options.episodes is not None and number not in options.episodes:
                continue
            if options.tasks is not None and prompt not in options.tasks:
                continue
            episode = _recorded(file, options)
            if (other := by_name.setdefault(episode.name, path)) != path:
                raise CaptureError(
                    f"{path}: holds episode {episode.name}, which {other} holds too: move one of them away"
                )
            if len(episode):
                files.append(file)
                episodes.append(episode)
        for name, asked, there in (("episodes", options.episodes, numbers), ("tasks", options.tasks, told)):
            if unknown := [value for value in asked or () if value not in there]:
                raise CaptureError(f"{name}: {folder} has no {unknown[0]!r}; it has {listed(there)}")
        if not episodes:
            raise CaptureError(
                f"{folder}: nothing is left of its observations; allow more with --episodes, --tasks or --stride"
            )
        return cls(folder, files, episodes)

    @property
    def capture_spec(self) -> CaptureSpec | None:
        """What the campaign captured, where that is the same in all files.

        Raises:
            CaptureError: it cannot be read.
        """
        said = [file.about.get("capture_spec") for file in self._files]
        if not said[0] or any(spec != said[0] for spec in said):
            return None
        try:
            return CaptureSpec.from_map(said[0])
        except CaptureSpecError as error:
            raise CaptureError(
                f"{self._files[0].path}: its capture spec cannot be read ({error}); say what to keep with --capture"
            ) from None

    def check(self, robot: RobotSpec) -> None:
        """Raises `CaptureError` where a file is of another robot."""
        for file in self._files:
            if file.about["robot"] != robot.name:
                raise CaptureError(
                    f"{file.path}: holds observations of robot {file.about['robot']}, and the policy reads {robot.name}'s: give"
                    " another --checkpoint"
                )

    def telling(self, episodes: Sequence[int]) -> Sequence[int]:
        """All: each is a file of its own, which may be damaged or of another kind."""
        return episodes

    def moments(self, episode: int, first: int, stop: int) -> list[Moment]:
        """Frames `first` to `stop` of those that are to be captured of an episode; reads and checks all of its file."""
        file, recorded = self._files[episode], self.episodes[episode]
        if self._held is None or self._held[0] != episode:
            self._held = None  # two episodes need not be in memory at once
            self._held = episode, file.read()
        arrays, moments = self._held[1], []
        for row in recorded.rows[first:stop]:
            observation = {key: arrays[name][row] for name, key in file.keys().items()}
            annotations = {name: arrays[f"annotations/{name}"][row].astype(np.float32) for name in file.annotations()}
            moments.append(Moment({**observation, "prompt": recorded.instruction}, annotations))
        return moments

    def place(self, episode: int, frame: int) -> str:
        """The file and the timestep."""
        return f"{self._files[episode].path}: timestep {self.episodes[episode].timesteps[frame]}"


def _check_stride(stride: int, file: ObservationFile) -> None:
    """A rollout infers every few steps, and refuses such a stride too."""
    apart = int(np.gcd.reduce(file.timestep))
    if apart and stride % apart:
        below = stride // apart * apart
        nearest = f"{below} or {below + apart}" if below else f"{apart}"
        raise CaptureError(
            f"stride {stride}: {file.path} has an inference every {apart} steps; the nearest that work: {nearest}"
        )


def _recorded(file: ObservationFile, options: CaptureOptions) -> RecordedEpisode:
    about = file.about
    sent: Mapping[str, Any] = about["episode"]
    chosen = file.captured if file.captured.any() else np.ones(len(file.timestep), bool)
    if options.stride is not None:
        _check_stride(options.stride, file)
        chosen = file.timestep % options.stride == 0
    rows = np.flatnonzero(chosen)
    timesteps = tuple(file.timestep[rows].tolist())
    campaign, name = split_id(sent["id"])
    metadata = dict(file.begun)
    seeds = tuple(file.seed[rows].tolist())
    if options.noise_seed is not None:
        seeds, metadata = noise_seeds(options.noise_seed, name, timesteps), {**metadata, "seed": options.noise_seed}
    source = {
        "kind": "observations", "file": file.path.name, "campaign": campaign, "episode": sent["id"],
        "instruction": about["prompt"], "policy": about["policy"], "stored": about.get("stored"),
    }  # fmt: skip
    instruction = about["prompt"]
    if options.prompt is not None:
        instruction, metadata = options.prompt, told_otherwise(metadata)
    ended: Mapping[str, Any] = about["ended"]
    metadata["captured_from"] = source
    try:
        check_said_at_end(ended.get("metadata") or {}, {**metadata, "instruction": instruction})
    except StoreError as error:
        raise CaptureError(f"{file.path}: about: ended: {error}; move it away to capture the other episodes") from None
    return RecordedEpisode(
        name=name,
        instruction=instruction,
        metadata=metadata,
        success=ended.get("success"),
        total_steps=ended.get("total_steps"),
        ended=ended.get("metadata") or {},
        rows=tuple(rows.tolist()),
        timesteps=timesteps,
        seeds=seeds,
        content=file.content,
    )
