"""What a campaign takes, before it starts. Knows nothing of how it is run."""

from __future__ import annotations

import dataclasses

from vlascope_sim.rollout.campaign import Campaign

_STEP_SECONDS = 0.010
_PICTURE_SECONDS = {"full": 0.055, "fast": 0.012}
_RESET_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Cost:
    """Upper bounds: an episode that succeeds early takes less.

    Attributes:
        episodes, steps: to run.
        frames, nbytes: that the server stores; `nbytes` is None where the campaign's own capture spec decides it.
        minutes: of simulation on CPU cores like those that this was measured on, spread over the workers. The policy's time
            comes on top: None where no latency is known.
    """

    episodes: int
    steps: int
    frames: int
    nbytes: int | None
    minutes: float

    def __str__(self) -> str:
        stored = "nothing stored"
        if self.frames:
            size = "bytes as the capture spec says" if self.nbytes is None else readable_bytes(self.nbytes)
            stored = f"at most {self.frames} frames, {size}"
        return (
            f"{self.episodes} episodes, at most {self.steps} steps; {stored}; "
            f"about {self.minutes:.0f} minutes of simulation at most, and the policy's time"
        )


def estimate(campaign: Campaign, episodes: int, frame_bytes: int | None) -> Cost:
    """The cost of `episodes` of a campaign's episodes.

    Args:
        campaign: what they are part of.
        episodes: still to run.
        frame_bytes: of one frame with the server's default spec; None where that is not what is captured.
    """
    steps = episodes * campaign.step_limit
    frames = campaign.frames * episodes // len(campaign.keys)
    pictures = steps if campaign.video == "steps" else steps / campaign.replan_steps
    seconds = steps * _STEP_SECONDS + pictures * _PICTURE_SECONDS[campaign.render]
    seconds += episodes * (_RESET_SECONDS + campaign.settle_steps * _STEP_SECONDS)
    return Cost(
        episodes,
        steps,
        frames,
        None if frame_bytes is None else frames * frame_bytes,
        seconds / 60 / campaign.workers,
    )


def readable_bytes(count: float) -> str:
    """Such as `4.9 GB`; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
