"""A capture without a robot, from options to a run: policy, recording and store are checked against each other first."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlascope_base.files import why_unwritable
from vlascope_base.progress import Progress
from vlascope_base.text import counted, readable_bytes
from vlascope_latents import CampaignCost, CapturePlan, CaptureSpecError
from vlascope_latents.store import LatentStore, RunWriter
from vlascope_latents.store.run_folder import check_episode_id

from vlascope_server.capturing.batches import (
    EpisodeStorer,
    FrameWarnings,
    batches_of,
    capture_batches,
    prepared_batches,
)
from vlascope_server.capturing.campaign_observations import CampaignObservations
from vlascope_server.capturing.options import CaptureError, CaptureOptions
from vlascope_server.capturing.recording import Recording, digest, digest_of
from vlascope_server.capturing.runs import (
    CAPTURE,
    check_same_capture,
    check_same_options,
    claimed,
    refuse_begun,
    saved_options,
)
from vlascope_server.policies.checked import CheckedPolicy
from vlascope_server.policies.contract import Policy, RequestShape, plan_request, usual_spec
from vlascope_server.policies.runs import describe_run

_BATCH, _BATCH_ON_CPU = 8, 4


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCapture:
    """A capture of which everything was checked, and nothing stored.

    Attributes:
        options: of the capture.
        policy: that the frames go through.
        recording: where they come from.
        plan: of one frame.
        batch_size: observations that run together.
        campaign: the id that the episodes get: the same for the same capture.
        done: places in `recording.episodes` of those that the run to go on with holds already.
    """

    options: CaptureOptions
    policy: Policy[Any]
    recording: Recording
    plan: CapturePlan
    batch_size: int
    campaign: str
    done: frozenset[int]

    @property
    def ids(self) -> list[str]:
        """Of each episode in the store."""
        return [f"{self.campaign}+{episode.name}" for episode in self.recording.episodes]

    @property
    def cost(self) -> CampaignCost:
        """What is still to be stored."""
        frames = sum(len(e) for place, e in enumerate(self.recording.episodes) if place not in self.done)
        return CampaignCost(frames, frames * self.plan.nbytes)

    @property
    def said(self) -> dict[str, Any]:
        """What the run says of the capture: JSON."""
        return _said(self.options, self.policy, self.recording, self.plan, self.batch_size) | {
            "campaign": self.campaign
        }


@dataclasses.dataclass(frozen=True)
class Captured:
    """What a capture stored.

    Attributes:
        run: its folder.
        episodes, frames: stored now; those that were there already are not counted.
        seconds: from the first batch to the last seal.
    """

    run: Path
    episodes: int
    frames: int
    seconds: float


def prepare_capture(load: Callable[[], Policy[Any]], options: CaptureOptions, progress: Progress) -> PreparedCapture:
    """Loads the policy, reads what was recorded, and refuses whatever a capture would stumble over. Stores nothing.

    Args:
        load: gives the policy, once what is looked at before has been found right.
        options: of the capture.
        progress: told how many episodes were looked at.

    Raises:
        CaptureError: the options do not go together, with the recording, or with the run to go on with.
        CheckpointError: the policy cannot be loaded.
        TrainingError, DatasetError: the dataset does not fit the policy's robot, or cannot be read.
        StoreError: an episode cannot be called as it would be.
    """
    if options.resume is None:
        _check_place(options.store)
    else:
        check_same_options(options, options.resume)
    if options.observations is not None:
        recording: Recording = CampaignObservations.open(options)
        policy = CheckedPolicy(load())
    else:
        # what only datasets need is missed before the policy is loaded
        from vlascope_server.capturing.dataset_frames import DatasetFrames

        policy = CheckedPolicy(load())
        recording = DatasetFrames.open(options, policy.facts.robot)
    plan = _plan(options, policy, recording)
    frames = sum(map(len, recording.episodes))
    batch_size = min(options.batch_size or (_BATCH if policy.facts.accelerated else _BATCH_ON_CPU), frames)
    said = _said(options, policy, recording, plan, batch_size)
    # where the recording lies makes no other capture of it
    decides = {name: value for name, value in said.items() if name != "recording"}
    campaign = f"{options.label or 'capture'}-{digest(decides)[:12]}"
    for episode in recording.episodes:
        check_episode_id(f"{campaign}+{episode.name}")
    done = frozenset[int]()
    if options.resume is None:
        refuse_begun(options.store, campaign)
    else:
        check_same_capture(said, options.resume)
        done = _done(options.resume, campaign, recording)
    prepared = PreparedCapture(options, policy, recording, plan, batch_size, campaign, done)
    _check_room(prepared)
    _check_observations(prepared, progress)
    return prepared


@contextlib.contextmanager
def opened_run(prepared: PreparedCapture) -> Iterator[RunWriter]:
    """The run to capture into: a new one, or the one to go on with, without what was not sealed of it.

    Raises:
        CaptureError: another process has begun the same capture since this one was prepared.
        StoreError: it cannot be written, or another process writes it.
    """
    options, facts = prepared.options, prepared.policy.facts
    if options.resume is None:
        model = describe_run(prepared.policy, saved_options(options), options.origin_of_seeds) | {
            CAPTURE: prepared.said
        }
        with claimed(options.store, prepared.campaign, options.readable_by):
            run = RunWriter.create(
                options.store, facts.name, prepared.policy.layout, model, readable_by=options.readable_by,
                memory_bytes=options.queue_bytes, workers=options.writers,
            )  # fmt: skip
    else:
        run = RunWriter.open(options.resume, memory_bytes=options.queue_bytes, workers=options.writers)
    with run:
        if options.resume is not None:
            for place, episode_id in enumerate(prepared.ids):
                if place not in prepared.done:
                    run.discard(episode_id)
        yield run


def capture(prepared: PreparedCapture, run: RunWriter, progress: Callable[[int, int, float], None]) -> Captured:
    """Captures every frame that the run lacks.

    Args:
        prepared: the capture.
        run: from `opened_run`.
        progress: told how many frames are stored, of how many, and after how many seconds.

    Raises:
        VlascopeError: an observation is damaged or not the robot's; episodes before it are stored.
        StoreError: the disk is full; episodes that are sealed are safe.
    """
    recording, policy, done = prepared.recording, prepared.policy, prepared.done
    total = prepared.cost.frames
    batches = batches_of([len(episode) for episode in recording.episodes], prepared.batch_size, done)
    if not batches:
        return Captured(run.path, 0, 0, 0.0)
    program = policy.compile(RequestShape(prepared.plan), prepared.batch_size)
    begun = time.perf_counter()
    storer = EpisodeStorer(
        run, prepared.plan, policy, recording, prepared.ids, done,
        lambda stored: progress(stored, total, time.perf_counter() - begun),
    )  # fmt: skip
    warnings = FrameWarnings()
    capture_batches(program, prepared_batches(policy, recording, batches, warnings), storer.store)
    warnings.log(sum(map(len, batches)))
    return Captured(run.path, len(recording.episodes) - len(done), total, time.perf_counter() - begun)


def differences(prepared: PreparedCapture) -> list[str]:
    """What is not as it was when the observations were saved, in words: policy, prompt, noise."""
    options, policies = prepared.options, prepared.recording.policies
    if not policies:
        return []
    found = []
    if prepared.policy.fingerprint not in policies:
        acted = ", ".join(f"{name} {fingerprint}" for fingerprint, name in policies.items())
        found.append(f"the policy ({acted} acted)")
    if options.prompt is not None:
        found.append("the prompt")
    if options.noise_seed is not None:
        found.append("the noise")
    return found


def _plan(options: CaptureOptions, policy: Policy[Any], recording: Recording) -> CapturePlan:
    spec = options.capture or recording.capture_spec or usual_spec(policy.layout)
    try:
        return plan_request(spec, policy.layout)
    except CaptureSpecError as error:
        whose = "" if options.capture else "what was captured of these frames before does not fit this policy: "
        raise CaptureError(f"--capture: {whose}{error.message}") from None


def _said(
    options: CaptureOptions, policy: Policy[Any], recording: Recording, plan: CapturePlan, batch_size: int
) -> dict[str, Any]:
    """Everything that decides what is stored, but for the machine."""
    return {
        "recording": dict(recording.about),
        "episodes": len(recording.episodes),
        "frame_count": sum(map(len, recording.episodes)),
        "frames": digest_of(recording.episodes),
        "fingerprint": policy.fingerprint,
        "capture_spec": plan.spec.to_map(),
        "batch_size": batch_size,
        "prompt": options.prompt,
        "noise_seed": options.origin_of_seeds,
    }


def _done(run: Path, campaign: str, recording: Recording) -> frozenset[int]:
    """Episodes that a run holds whole."""
    sealed = {e.id: e.frames for e in LatentStore(run).episodes() if e.status == "sealed"}
    return frozenset(
        place
        for place, episode in enumerate(recording.episodes)
        if sealed.get(f"{campaign}+{episode.name}") == len(episode)
    )


def _check_place(store: Path) -> None:
    path = store.absolute()
    if path.exists() and not path.is_dir():
        raise CaptureError(f"store: {store} is a file, expected a folder of runs; give another")
    why = why_unwritable(path) if not path.exists() else None
    if why is None and path.exists() and not os.access(path, os.W_OK | os.X_OK):
        why = f"{store} is not writable"
    if why:
        raise CaptureError(f"store: {store}: {why}; give a folder elsewhere")


def _check_room(prepared: PreparedCapture) -> None:
    """Raises `CaptureError` where memory or disk cannot take the frames."""
    options, plan, cost = prepared.options, prepared.plan, prepared.cost
    if plan.nbytes > options.queue_bytes:
        raise CaptureError(
            f"queue_bytes: one frame takes {readable_bytes(plan.nbytes)}, found {readable_bytes(options.queue_bytes)}: raise it"
        )
    place = (options.resume or options.store).absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if cost.nbytes + options.min_free > free:
        raise CaptureError(
            f"store: {counted(cost.frames, 'frame')} take {readable_bytes(cost.nbytes)}, and {readable_bytes(options.min_free)}"
            f" are kept free; {there} has {readable_bytes(free)} free: keep less with --capture, choose frames with --stride or"
            " --episodes, or give another folder"
        )


def _check_observations(prepared: PreparedCapture, progress: Progress) -> None:
    """Raises where a recording is damaged, or what it holds is not what the policy's robot sends."""
    recording, policy = prepared.recording, prepared.policy
    missing = [place for place in range(len(recording.episodes)) if place not in prepared.done]
    recording.check(policy.facts.robot)
    telling, warnings = recording.telling(missing), FrameWarnings()
    for done, place in enumerate(telling):
        progress("checking observations", done, len(telling))
        next(prepared_batches(policy, recording, [((place, 0),)], warnings))
    if prepared.options.dry_run:  # a capture says it of all frames
        warnings.log(len(telling))
