"""What a campaign takes, before it starts."""

from __future__ import annotations

import dataclasses
import math

from vlascope_base.text import counted, readable_bytes, readable_duration

from vlascope_sim.rollout.campaign import Campaign

_STEP_SECONDS = 0.010
_PICTURE_SECONDS = {"full": 0.055, "fast": 0.012}
_RESET_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Cost:
    """An estimate, in which every episode takes all of its steps: one that succeeds early takes less.

    Attributes:
        episodes, steps: to run, at most.
        frames, nbytes: that the server stores, at most; `nbytes` is None where nobody has asked it.
        minutes: of simulation, on as many cores as there are, by the speed of those that this was measured on.
        steps_per_second: that one core is assumed to simulate.
        workers, cores, servers: that it was reckoned with.
        policy_minutes: that each server computes, one inference after the other; None where no latency is known.
        latency_ms: of one inference, as it was measured.
        batches: servers may answer several workers at once.
    """

    episodes: int
    steps: int
    frames: int
    nbytes: int | None
    minutes: float
    steps_per_second: float
    workers: int
    cores: int
    servers: int
    policy_minutes: float | None = None
    latency_ms: float | None = None
    batches: bool = True

    def __str__(self) -> str:
        if not self.episodes:
            return "nothing to run: every episode has its result"
        stored = "nothing stored"
        if self.frames:
            size = "of a size that is not known" if self.nbytes is None else readable_bytes(self.nbytes)
            stored = f"at most {counted(self.frames, 'frame')}, {size}"
        on = counted(self.workers, "worker")
        if self.workers > self.cores:
            on += f" on this machine's {counted(self.cores, 'core')}"
        lines = [
            f"{counted(self.episodes, 'episode')}, at most {counted(self.steps, 'step')}; {stored}",
            f"simulation: {_about(self.minutes)} with {on}",
            f"  (assumed: {self.steps_per_second:.0f} steps/s a core, if no episode ends early)",
        ]
        if self.policy_minutes is None:
            return "\n".join([*lines, "policy: not known, no server was asked"])
        lines.append(
            f"policy: {_about(self.policy_minutes)} on {counted(self.servers, 'server')}, one inference after the other"
        )
        lines.append(f"  (measured: {self.latency_ms:.0f} ms each)")
        if self.batches and self.workers > self.servers:
            lines.append("  a server that batches its clients' requests, as on a GPU, may take less")
        return "\n".join(lines)


def _about(minutes: float) -> str:
    said = readable_duration(60 * minutes)
    return said if minutes < 1 else f"about {said}"


def estimate(
    campaign: Campaign,
    episodes: int,
    frame_bytes: int | None,
    *,
    cores: int,
    servers: int | None = None,
    latency_ms: float | None = None,
    deterministic: bool = False,
) -> Cost:
    """The cost of `episodes` of a campaign's episodes.

    Args:
        campaign: what they are part of.
        episodes: still to run.
        frame_bytes: of one frame as it is captured; None where that is not known.
        cores: that this machine has for workers.
        servers: that answer; all of the campaign's unless given.
        latency_ms: of one inference, measured; None where that is not known.
        deterministic: the server never batches.
    """
    steps = episodes * campaign.step_limit
    frames = campaign.frames * episodes // len(campaign.keys)
    pictures = steps if campaign.video == "steps" else steps / campaign.replan_steps
    seconds = steps * _STEP_SECONDS + pictures * _PICTURE_SECONDS[campaign.render]
    speed = steps / seconds if steps else 0.0
    seconds += episodes * (_RESET_SECONDS + campaign.settle_steps * _STEP_SECONDS)
    inferences = episodes * math.ceil(campaign.step_limit / campaign.replan_steps)
    servers = len(campaign.servers) if servers is None else servers
    at_once = max(1, min(campaign.workers, episodes))
    return Cost(
        episodes,
        steps,
        frames,
        None if frame_bytes is None else frames * frame_bytes,
        seconds / 60 / min(at_once, cores),
        speed,
        campaign.workers,
        cores,
        servers,
        None if latency_ms is None else inferences * latency_ms / 60e3 / min(at_once, servers),
        latency_ms,
        batches=not deterministic,
    )
