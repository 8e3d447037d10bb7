"""What a policy server says of itself before a campaign begins, and how fast it answers."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from vlascope_client import PolicyClient

from vlascope_sim.commands.first_contact import answering_servers
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.session import open_client

_MEASURED = 6
"""Inferences, the first of which may wait for a compiler and is not counted."""
_MEASURING_SECONDS = 5.0
"""After which no further one is asked for, as long as there are two."""


@dataclasses.dataclass(frozen=True)
class ServedPolicy:
    """What a server said of its policy, and how fast it answered.

    Attributes:
        servers: that answered.
        metadata: the server's, as it came.
        latency_ms: of one inference without capture while this is the only client: the median of a few.
        frame_bytes: of one frame as the campaign captures it; None where it captures nothing.
    """

    servers: tuple[str, ...]
    metadata: dict[str, Any]
    latency_ms: float
    frame_bytes: int | None


def ask_policies(campaign: Campaign, api_key: str | None, *, deterministic_check: bool) -> ServedPolicy:
    """Asks every server of a campaign that answers; a log line names those that do not.

    Args:
        campaign: what they must be fit for.
        api_key: for all of them.
        deterministic_check: insist on the same bits for the same request.

    Returns:
        The policy that all of them serve; the latency is the slowest server's.

    Raises:
        RolloutError: chunks are too short, servers have different policies, or one is not deterministic where that is asked.
        vlascope_client.PolicyClientError: none can be reached within `connect_seconds`, or one is not what is needed.
    """
    servers = answering_servers(campaign, api_key)
    policies = [_ask(server, campaign, api_key, deterministic_check) for server in servers]
    first = policies[0].metadata
    for server, policy in zip(servers, policies, strict=True):
        if policy.metadata["fingerprint"] != first["fingerprint"]:
            raise RolloutError(
                f"{server}: serves policy {policy.metadata['fingerprint']}, {servers[0]} serves "
                f"{first['fingerprint']}; one campaign has one policy"
            )
    return ServedPolicy(servers, first, max(policy.latency_ms for policy in policies), policies[0].frame_bytes)


def _ask(server: str, campaign: Campaign, api_key: str | None, deterministic_check: bool) -> ServedPolicy:
    with open_client(server, campaign, api_key, first_contact=True) as client:
        spec = client.metadata
        if campaign.replan_steps > spec.action_horizon:
            raise RolloutError(
                f"replan_steps {campaign.replan_steps}: {server} has chunks of {spec.action_horizon} actions; use at most that"
            )
        if deterministic_check and not spec.deterministic:
            raise RolloutError(
                f"{server}: does not promise equal bits for equal requests; serve with `--deterministic`"
            )
        # a spec that the policy cannot honour is refused here, before anything is made
        frame_bytes = client.plan(campaign.capture_spec or True) if campaign.collect_latents else None
        latencies, answers = _infer_same(client, campaign.image_size)
        first, *others = answers
        if deterministic_check and any(other.tobytes() != first.tobytes() for other in others):
            furthest = max(float(np.abs(first - other).max()) for other in others)
            raise RolloutError(f"{server}: the same request twice gave actions that differ by up to {furthest:g}")
        return ServedPolicy((server,), dict(client.raw_metadata), float(np.median(latencies[1:])), frame_bytes)


def _infer_same(client: PolicyClient, image_size: int) -> tuple[list[float], list[np.ndarray]]:
    """Latencies in ms and actions of one request, made twice or more often."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, image_size, image_size, 3), np.uint8)
    observation = {
        "observation/image": pictures[0],
        "observation/wrist_image": pictures[1],
        "observation/state": rng.standard_normal(8),
        "prompt": "pick up the bowl",
    }
    latencies, actions = [], []
    while len(latencies) < 2 or (len(latencies) < _MEASURED and sum(latencies[1:]) < 1e3 * _MEASURING_SECONDS):
        begun = time.perf_counter()
        actions.append(client.infer(observation, seed=1).actions)
        latencies.append(1e3 * (time.perf_counter() - begun))
    return latencies, actions
