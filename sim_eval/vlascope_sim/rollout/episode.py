"""Runs one episode: settle, ask, act, record, tell how it ended."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.provenance import git_revision, now, versions
from vlascope_client import PolicyClient

from vlascope_sim.environment.libero import CONTROL_HZ, LiberoEnvironment, SensorReadings
from vlascope_sim.environment.package import DECIDING_PACKAGES
from vlascope_sim.environment.tasks import load_task
from vlascope_sim.perturb import PerturbationError, PerturbationRecord, reset_perturbed
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey
from vlascope_sim.rollout.observations import ObservationsFile
from vlascope_sim.rollout.recorder import VideoRecorder, video_path
from vlascope_sim.rollout.results import EpisodeResult
from vlascope_sim.rollout.session import PolicySession

log = logging.getLogger(__name__)

Beat = Callable[[str, int], None]
"""Called with a phase (`build`, `policy`, `step`) and the environment steps so far: a sign of life."""


@dataclasses.dataclass(frozen=True)
class AssetsUsed:
    """Which assets a result was made with."""

    folder: Path
    kind: str
    hash: str


def blank_result(campaign: Campaign, assets: AssetsUsed, key: EpisodeKey, attempt: int) -> EpisodeResult:
    """The row of an attempt of which nothing is known yet; `lost` until it says otherwise."""
    task = load_task(campaign.suite, key.task)
    scene, noise = campaign.seeds(key)
    told = campaign.told(key)
    return EpisodeResult(
        suite=campaign.suite,
        task_id=key.task,
        task_name=task.name,
        instruction=told.instruction,
        task_instruction=task.instruction,
        prompt_mode=campaign.prompt_mode_of(key),
        told_object=told.object,
        told_goal=" ".join(told.goal) if told.goal else None,
        perturb=campaign.perturb,
        episode_index=key.episode,
        noise_index=key.noise,
        init_state=campaign.init_state(key),
        attempt=attempt,
        status="lost",
        seed=campaign.seed,
        environment_seed=scene,
        noise_seed=noise,
        campaign=campaign.id,
        episode=campaign.episode_id(key),
        assets=assets.kind,
        assets_hash=assets.hash,
        render=campaign.render,
        versions=versions(*DECIDING_PACKAGES),
        git=git_revision(),
        started=now(),
    )


def run_episode(
    environment: LiberoEnvironment,
    client: PolicyClient,
    campaign: Campaign,
    blank: EpisodeResult,
    output: Path,
    beat: Beat,
) -> EpisodeResult:
    """Runs an attempt to its end.

    Args:
        environment: of the task.
        client: connected.
        campaign: what the episode is part of.
        blank: the attempt's row so far.
        output: folder of results; videos and observations go into folders of it.
        beat: called at every step.

    Returns:
        The finished row; `error` where the scene has no room for what was to be done to it. A video that could not be written
        is said in it.

    Raises:
        vlascope_client.PolicyClientError: the server is gone or refuses.
        SimulationError, RolloutError: the campaign cannot run.
    """
    begun = time.perf_counter()
    beat("step", 0)
    try:
        seen, perturbed = _start(environment, campaign, blank)
    except PerturbationError as error:
        return dataclasses.replace(
            blank, status="error", reason=str(error), seconds=round(time.perf_counter() - begun, 3)
        )
    blank = dataclasses.replace(blank, perturbation=perturbed.to_map() if perturbed else None)
    session = PolicySession(client, campaign, blank.key, _metadata(campaign, blank))
    recorder = (
        VideoRecorder(blank.instruction or "(no instruction)", _fps(campaign)) if campaign.video != "none" else None
    )
    observations = ObservationsFile() if campaign.save_observations else None
    digest = hashlib.blake2b(digest_size=16)
    limit, success, steps = campaign.step_limit, False, 0
    try:
        while steps < limit and not success:
            beat("policy" if session.infers_at(steps) else "step", steps)
            kept = session.captures_at(steps) or (observations is not None and session.infers_at(steps))
            annotations = environment.annotations() if campaign.annotations and kept else None
            action = session.action(steps, seen, annotations)
            beat("step", steps)
            if recorder and seen.image is not None and seen.wrist_image is not None:
                recorder.add(seen.image, seen.wrist_image, steps)
            if observations:
                if session.last is not None and session.last.timestep == steps:
                    observations.saw(session.last, seen, annotations)
                observations.did(action)
            digest.update(seen.state.tobytes() + np.asarray(action, np.float64).tobytes())
            drawn = campaign.video == "steps" or session.infers_at(steps + 1)
            seen, success = environment.step(action, render=drawn and steps + 1 < limit)
            steps += 1
        beat("policy", steps)
        ended = {
            "lifted_first": environment.lifted_first,
            "inferences": session.inferences,
            "trajectory": digest.hexdigest(),
        }
        stored = session.end(success, steps, ended)
        if recorder:
            recorder.end(success)
        about = {
            **session.about,
            "ended": {"success": success, "total_steps": steps, "metadata": ended},
            "stored": dataclasses.asdict(stored),
        }
        seen_file = functools.partial(observations.write, about=about) if observations else None
        files = _write_files(recorder, seen_file, output, blank.name, success=success)
    finally:
        if recorder:
            recorder.discard()
    return dataclasses.replace(
        blank,
        status="done",
        success=success,
        steps=steps,
        captures=session.captures,
        frame_bytes=session.frame_bytes,
        warnings=tuple(session.warnings),
        **ended,
        **dataclasses.asdict(stored),
        settle_speed=environment.settle_speed,
        latency_ms=tuple(session.latency_ms),
        model_ms=tuple(session.model_ms),
        seconds=round(time.perf_counter() - begun, 3),
        checkpoint=client.metadata.checkpoint,
        fingerprint=client.metadata.fingerprint,
        server=client.metadata.server,
        **files,
    )


def _start(
    environment: LiberoEnvironment, campaign: Campaign, blank: EpisodeResult
) -> tuple[SensorReadings, PerturbationRecord | None]:
    """The scene at timestep 0, and what was done to it."""
    goal = campaign.told(blank.key).goal
    environment.pursue([goal] if goal else None)
    start, settle = (blank.init_state, blank.environment_seed), campaign.settle_steps
    if campaign.perturb == "none":
        return environment.reset(*start, settle_steps=settle), None
    return reset_perturbed(environment, *start, campaign.perturbation(blank.key), settle_steps=settle)


def _metadata(campaign: Campaign, blank: EpisodeResult) -> dict[str, Any]:
    """What the server keeps with the episode, beside the prompt that is sent: that is its instruction."""
    return {
        "id": blank.episode,
        "suite": blank.suite,
        "task_id": blank.task_id,
        "task_name": blank.task_name,
        "task_instruction": blank.task_instruction,
        "episode_index": blank.episode_index,
        "init_state": blank.init_state,
        "seed": blank.noise_seed,
        "metadata": {
            "prompt_mode": blank.prompt_mode,
            "told_object": blank.told_object,
            "told_goal": blank.told_goal,
            "perturbation": blank.perturbation,
            "noise_index": blank.noise_index,
            "environment_seed": blank.environment_seed,
            "campaign_seed": blank.seed,
            "rollout_attempt": blank.attempt,
            "render": blank.render,
            "assets": blank.assets,
            "assets_hash": blank.assets_hash,
            "replan_steps": campaign.replan_steps,
            "stride": campaign.capture_stride,
            "settle_steps": campaign.settle_steps,
            "step_limit": campaign.step_limit,
            "versions": blank.versions,
        },
    }


def _fps(campaign: Campaign) -> int:
    """Real time, as near as whole frames a second come to it."""
    return CONTROL_HZ if campaign.video == "steps" else max(1, round(CONTROL_HZ / campaign.replan_steps))


def _write_files(
    recorder: VideoRecorder | None,
    observations: Callable[[Path], None] | None,
    output: Path,
    name: str,
    *,
    success: bool,
) -> dict[str, str | None]:
    """Writes the files beside an episode's result, each by itself; `observations` writes to a path."""
    video, problems = None, []
    path, other = (video_path(output / "videos", name, ended) for ended in (success, not success))
    try:
        if recorder:
            # an attempt whose result was lost may have ended the other way: an episode has one video
            other.unlink(missing_ok=True)
            if recorder.write(path):
                video = f"videos/{path.name}"
    except OSError as error:
        problems.append(f"video: {error.strerror or error}")
    try:
        if observations:
            observations(output / "observations" / f"{name}.npz")
    except OSError as error:
        problems.append(f"observations: {error.strerror or error}")
    for problem in problems:
        log.warning("%s: not written: %s; its result is kept", name, problem)
    return {"video": video, "files_error": "; ".join(problems) or None}
