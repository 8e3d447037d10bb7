"""What a campaign takes, before it starts."""

from __future__ import annotations

import dataclasses
import math

from vlascope_base.text import readable_bytes, readable_duration

from vlascope_sim.rollout.campaign import Campaign

_STEP_SECONDS = 0.010
_PICTURE_SECONDS = {"full": 0.055, "fast": 0.012}
_RESET_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Cost:
    """Upper bounds: an episode that succeeds early takes less.

    Attributes:
        episodes, steps: to run.
        frames, nbytes: that the server stores; `nbytes` is None where nobody has asked it.
        minutes: of simulation on CPU cores like those that this was measured on, spread over the workers.
        policy_minutes: that comes on top; None where no latency is known.
        latency_ms: that it was reckoned with, as it was measured.
    """

    episodes: int
    steps: int
    frames: int
    nbytes: int | None
    minutes: float
    policy_minutes: float | None = None
    latency_ms: float | None = None

    def __str__(self) -> str:
        stored = "nothing stored"
        if self.frames:
            size = "of a size that is not known" if self.nbytes is None else readable_bytes(self.nbytes)
            stored = f"at most {self.frames} frames, {size}"
        policy, latency = "the policy's time, which is not known", ""
        if self.policy_minutes is not None:
            policy = f"{readable_duration(60 * self.policy_minutes)} of the policy"
            latency = f"\nmeasured: {self.latency_ms:.0f} ms an inference"
        return (
            f"{self.episodes} episodes, at most {self.steps} steps; {stored}\n"
            f"at most: {readable_duration(60 * self.minutes)} of simulation and {policy}{latency}"
        )


def estimate(
    campaign: Campaign,
    episodes: int,
    frame_bytes: int | None,
    *,
    latency_ms: float | None = None,
    deterministic: bool = False,
) -> Cost:
    """The cost of `episodes` of a campaign's episodes.

    Args:
        campaign: what they are part of.
        episodes: still to run.
        frame_bytes: of one frame as it is captured; None where that is not known.
        latency_ms: of one inference, measured; None where that is not known.
        deterministic: the server answers one request after the other, so that workers wait for each other.
    """
    steps = episodes * campaign.step_limit
    frames = campaign.frames * episodes // len(campaign.keys)
    pictures = steps if campaign.video == "steps" else steps / campaign.replan_steps
    seconds = steps * _STEP_SECONDS + pictures * _PICTURE_SECONDS[campaign.render]
    seconds += episodes * (_RESET_SECONDS + campaign.settle_steps * _STEP_SECONDS)
    at_once = min(campaign.workers, len(campaign.servers)) if deterministic else campaign.workers
    inferences = episodes * math.ceil(campaign.step_limit / campaign.replan_steps)
    return Cost(
        episodes,
        steps,
        frames,
        None if frame_bytes is None else frames * frame_bytes,
        seconds / 60 / campaign.workers,
        None if latency_ms is None else inferences * latency_ms / 60e3 / at_once,
        latency_ms,
    )
