"""One episode's conversation with a policy: when to ask, what to send, which action comes next.

Captures happen at inferences, and inferences every `replan_steps` steps from timestep 0.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from typing import Any

import numpy as np
from vlascope_client import ActionChunkBroker, Backoff, ExpectedSpec, PolicyClient
from vlascope_client.requests import InferOptions

from vlascope_sim.environment.libero import SensorReadings
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey
from vlascope_sim.rollout.observations import Inference, sent
from vlascope_sim.seeds import inference_seed

log = logging.getLogger(__name__)

TEMPORARY = ("overloaded", "shutting_down", "internal", "episode_in_use")
"""Errors of a server after which the same episode may well succeed; after others it cannot."""


def open_client(
    server: str | tuple[str, ...], campaign: Campaign, api_key: str | None, *, first_contact: bool = False
) -> PolicyClient:
    """Connects to a policy for LIBERO.

    Args:
        server: its address; of several, the first that answers, now and whenever it has to reconnect.
        campaign: what the policy must be fit for.
        api_key: for the server.
        first_contact: the server has never answered, and is waited for `connect_seconds` rather than `reconnect_seconds`.

    Raises:
        vlascope_client.SpecMismatchError: another robot's, a gripper that opens the other way, or no store to capture to.
        vlascope_client.PolicyClientError: it cannot be reached.
        RolloutError: it is no address.
    """
    expects = ExpectedSpec(
        robot="libero",
        state_dim=8,
        action_dim=7,
        gripper="-1 opens, +1 closes",
        store=True if campaign.collect_latents else None,
    )
    backoff = Backoff(cap=5.0)
    seconds = campaign.connect_seconds if first_contact else campaign.reconnect_seconds
    try:
        return PolicyClient(
            server,
            api_key=api_key,
            expects=expects,
            backoff=backoff,
            retries=_retries(backoff, seconds),
            first_contact_timeout=seconds if first_contact else None,
        )
    except ValueError as error:  # no address
        raise RolloutError(str(error)) from None


def _retries(backoff: Backoff, seconds: float) -> int:
    """Tries that last at least so long, however short chance makes the delays between them."""
    tries, waited, delay = 0, 0.0, backoff.first
    while waited < seconds:
        tries, waited, delay = tries + 1, waited + delay * (1 - backoff.jitter), min(backoff.cap, 2 * delay)
    return tries


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where the server put an episode's captures."""

    run: str | None = None
    store_attempt: int | None = None
    frames: int | None = None
    dropped: int | None = None


class PolicySession:
    """Asks a policy for the actions of one episode.

    Attributes:
        latency_ms: of every inference so far, from request to actions; model_ms: what of it the server's device took.
        captures: inferences that were captured.
        frame_bytes: of a captured frame; None until there was one.
        warnings: of the server, each text once, such as that the prompt was cut.
        prompt: what the policy is told.
        last: the inference that the latest action is of; None before the first.

    Raises:
        RolloutError: the policy's chunks are shorter than `replan_steps`.
    """

    def __init__(self, client: PolicyClient, campaign: Campaign, key: EpisodeKey, episode: dict[str, Any]):
        try:
            self._broker = ActionChunkBroker(client, campaign.replan_steps)
        except ValueError as error:
            raise RolloutError(str(error)) from error
        self.latency_ms: list[float] = []
        self.model_ms: list[float] = []
        self.captures = 0
        self.frame_bytes: int | None = None
        self.warnings: list[str] = []
        self._client, self._campaign, self._episode = client, campaign, episode
        self.prompt = campaign.told(key).instruction
        self.last: Inference | None = None
        self._noise = campaign.seeds(key)[1]

    @property
    def inferences(self) -> int:
        """How many so far."""
        return len(self.latency_ms)

    @property
    def about(self) -> dict[str, Any]:
        """What the policy was sent beside observations, and what it said of itself: JSON."""
        policy, campaign = self._client.metadata, self._campaign
        spec = campaign.capture_spec or dict(policy.capture.default_spec)
        return {
            "robot": policy.robot,
            "prompt": self.prompt,
            "episode": self._episode,
            "capture_spec": spec if campaign.collect_latents else None,
            "policy": {
                "checkpoint": policy.checkpoint,
                "fingerprint": policy.fingerprint,
                "denoise_steps": policy.denoise_steps,
                "deterministic": policy.deterministic,
            },
        }

    def infers_at(self, timestep: int) -> bool:
        """Whether the action of this timestep needs an observation."""
        return timestep % self._campaign.replan_steps == 0

    def captures_at(self, timestep: int) -> bool:
        """Whether that observation is captured too."""
        return self._campaign.collect_latents and timestep % self._campaign.capture_stride == 0

    def action(
        self, timestep: int, observation: SensorReadings, annotations: dict[str, np.ndarray] | None
    ) -> np.ndarray:
        """The action of a timestep, float32 [7]; asks the server where one is needed.

        Args:
            timestep: from 0, one after the other.
            observation: with pictures where `infers_at`.
            annotations: of this moment; sent where `captures_at`.

        Raises:
            vlascope_client.PolicyClientError: the server is gone or refuses.
        """
        if not self._broker.needs_inference:
            return self._broker.act({}).action
        return self._infer(timestep, observation, annotations)

    def end(self, success: bool, steps: int, metadata: dict[str, Any]) -> Stored:
        """Tells the server how the episode ended, and waits until all of its frames are on disk.

        Args:
            success: whether the goal was reached.
            steps: of the environment.
            metadata: what else only the end tells; the store keeps it beside what the episode began with.

        Raises:
            RolloutError: the server could not write them.
        """
        if not self.captures:
            return Stored()
        receipt = self._client.end_episode(self._episode["id"], success=success, total_steps=steps, metadata=metadata)
        if receipt.status != "sealed":
            raise RolloutError(
                f"{receipt.episode}: the server could not store its frames: {receipt.error or receipt.status}"
            )
        return Stored(receipt.run, receipt.attempt, receipt.frames, receipt.dropped)

    def _infer(self, timestep: int, seen: SensorReadings, annotations: dict[str, np.ndarray] | None) -> np.ndarray:
        capture, seed = self.captures_at(timestep), inference_seed(self._noise, self.inferences)
        options: InferOptions = {"seed": seed}
        if capture:
            spec = self._campaign.capture_spec
            options["collect_latents"] = True if spec is None else spec
            options["episode"] = self._episode
            options["timestep"] = timestep
            options["annotations"] = annotations
        start = time.perf_counter()
        step = self._broker.act({**sent(seen), "prompt": self.prompt}, **options)
        self.latency_ms.append(round((time.perf_counter() - start) * 1e3, 3))
        if "model_ms" in step.reply.policy_timing:
            self.model_ms.append(round(float(step.reply.policy_timing["model_ms"]), 3))
        if step.reply.latents is not None:
            self.frame_bytes = step.reply.latents.bytes
        for warning in step.reply.warnings:
            if warning not in self.warnings:
                self.warnings.append(warning)
                _warn_once(self._campaign.id, warning, self._episode["id"])
        self.captures += capture
        self.last = Inference(timestep, seed, capture)
        return step.action


@functools.cache
def _noted(campaign: str) -> set[str]:
    """Warnings of the server that this process has shown of a campaign."""
    return set()


def _warn_once(campaign: str, warning: str, episode: str) -> None:
    if warning not in (noted := _noted(campaign)):
        noted.add(warning)
        log.warning("%s: the server warns: %s; said once, results keep it with each episode", episode, warning)
