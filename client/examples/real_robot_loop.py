"""Runs a policy on a robot: a fixed control rate, replanning, latency measured, a safe stop, captures on the way.

    python real_robot_loop.py --server gpu-host:8000 --prompt "put the bowl on the plate" --episodes 10

Write your robot as a class with the five methods of `Robot` and make it in `main`; `--dry-run` takes a robot that is only
arithmetic. Needs vlascope-client and nothing else. The robot is stopped whatever happens: at the end of an episode, at
Ctrl-C, when the policy is late or gone. Knows nothing of what the policy computes.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import secrets
import time
from typing import Any, Protocol

import numpy as np
from vlascope_client import (
    ActionChunkBroker,
    EpisodeInterruptedError,
    ExpectedSpec,
    PolicyClient,
    PolicyClientError,
    PolicyConnectionError,
    PolicyTimeoutError,
)


class Robot(Protocol):
    """What the loop needs of a robot."""

    def reset(self) -> None:
        """Goes to where an episode begins, and waits until it is there."""

    def observe(self) -> dict[str, Any]:
        """The robot's keys of docs/protocol.md: images uint8 [H, W, 3], state float [8]."""
        ...

    def apply(self, action: np.ndarray) -> None:
        """Starts on one action, float32 [7], and returns at once."""

    def succeeded(self) -> bool | None:
        """Whether the task is done; None where the robot cannot tell."""

    def stop(self) -> None:
        """Holds still, now."""


class DryRobot:
    """A robot that is only arithmetic: position integrates the actions, and the images move with it."""

    def reset(self) -> None:
        """Goes to zero."""
        self.state = np.zeros(8, np.float32)
        self.moving = False

    def observe(self) -> dict[str, Any]:
        """Two images of a gradient that the state shifts."""
        shift = int(20 * self.state[0])
        image = np.roll(np.arange(224 * 224 * 3, dtype=np.uint32).reshape(224, 224, 3) // 591, shift, axis=1)
        image = image.astype(np.uint8)
        return {"observation/image": image, "observation/wrist_image": image[::-1], "observation/state": self.state}

    def apply(self, action: np.ndarray) -> None:
        """Adds a little of the action."""
        self.moving = True
        self.state[:6] += 0.01 * np.clip(action[:6], -1, 1)
        self.state[6:] = np.array([1, -1], np.float32) * np.clip(action[6], -1, 1)

    def succeeded(self) -> bool | None:
        """It has no task."""
        return None

    def stop(self) -> None:
        """Holds still."""
        self.moving = False


@dataclasses.dataclass
class Outcome:
    """What an episode was like.

    Attributes:
        steps: actions applied.
        late: steps that took longer than the control rate allows.
        latencies: seconds of each inference.
        frames: committed to the server's store.
    """

    steps: int = 0
    late: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)
    frames: int = 0

    def __str__(self) -> str:
        ms = 1e3 * np.array(self.latencies or [np.nan])
        return (
            f"{self.steps} steps, {self.late} late; {len(self.latencies)} inferences: median {np.median(ms):.0f} ms, "
            f"worst {np.max(ms):.0f} ms; {self.frames} frames kept"
        )


def run_episode(policy: PolicyClient, robot: Robot, episode: dict[str, Any], options: argparse.Namespace) -> Outcome:
    """One episode; the robot holds still afterwards, however it ends."""
    broker = ActionChunkBroker(policy, options.replan_steps)
    outcome, captured, success = Outcome(), False, None
    robot.reset()
    # a robot that moves waits for no server to come back: a lost connection ends the episode
    at_rest, policy.retries = policy.retries, 0
    try:
        next_tick = time.monotonic()
        for step in range(options.steps):
            more: dict[str, Any] = {}
            asked = broker.needs_inference
            if asked:
                more = {"episode": episode, "timestep": step}
                if options.capture_every and len(outcome.latencies) % options.capture_every == 0:
                    more |= {"collect_latents": True, "annotations": {"seconds": step / options.rate}}
                    captured = True
            begun = time.monotonic()
            action = broker.act(lambda: {**robot.observe(), "prompt": options.prompt}, **more).action
            if asked:
                outcome.latencies.append(time.monotonic() - begun)
            robot.apply(action)
            outcome.steps += 1
            success = robot.succeeded()
            if success:
                break
            next_tick += 1 / options.rate
            if (wait := next_tick - time.monotonic()) > 0:
                time.sleep(wait)
            else:  # do not hurry after lost time: actions were meant to be a tick apart
                outcome.late += 1
                next_tick = time.monotonic()
    finally:
        robot.stop()
        policy.retries = at_rest
    if captured:
        outcome.frames = policy.end_episode(episode["id"], success=success, total_steps=outcome.steps).frames
    return outcome


def new_campaign_id() -> str:
    """The time (UTC), and something that two which begin at once differ in: no other invocation's episodes have it."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def main() -> int:
    """Runs the episodes; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", nargs="+", default=["localhost:8000"], help="host:port, in order of preference")
    parser.add_argument("--prompt", default="put the bowl on the plate", help="the instruction")
    parser.add_argument("--episodes", type=int, default=1, help="how many to run")
    parser.add_argument("--steps", type=int, default=200, help="of the robot in one episode, at most")
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second (Hz)")
    parser.add_argument("--replan-steps", type=int, default=5, help="actions executed of each chunk")
    parser.add_argument("--capture-every", type=int, default=0, help="keep every n-th inference; 0 keeps none")
    parser.add_argument(
        "--deadline", type=float, default=2.0, help="seconds an inference may take before the robot stops"
    )
    parser.add_argument("--attempts", type=int, default=3, help="of an episode whose connection is lost")
    parser.add_argument("--dry-run", action="store_true", help="a robot that is only arithmetic")
    options = parser.parse_args()
    if not options.dry_run:
        parser.error("this example has no driver for your robot yet: write a class like DryRobot, or take --dry-run")
    robot: Robot = DryRobot()
    # part of each episode's id, so that the store never takes this invocation's episodes for those of another
    campaign = new_campaign_id()

    expects = ExpectedSpec(robot="libero", state_dim=8, action_dim=7, store=True if options.capture_every else None)
    try:
        key = os.environ.get("VLASCOPE_API_KEY")
        with PolicyClient(options.server, api_key=key, expects=expects, timeout=options.deadline) as policy:
            # the first inference may wait for a compilation: with the robot at rest, and before the clock runs
            robot.reset()
            observation = {**robot.observe(), "prompt": options.prompt}
            policy.infer(observation)
            if options.capture_every:
                policy.infer(observation, collect_latents=True, episode={"id": f"{campaign}+warm-up"})
                policy.end_episode(f"{campaign}+warm-up", success=False)
                print(f"captures are kept as campaign {campaign}", flush=True)
            for number in range(options.episodes):
                name = f"real-{number:04d}"
                episode = {"id": f"{campaign}+{name}", "episode_index": number}
                for attempt in range(1, options.attempts + 1):
                    try:
                        policy.connect()
                        print(f"{name}: {run_episode(policy, robot, episode, options)}")
                        break
                    except (EpisodeInterruptedError, PolicyConnectionError, PolicyTimeoutError) as error:
                        print(f"{name}, attempt {attempt} of {options.attempts}: {error}")
                        if attempt == options.attempts:
                            return 1
    except (PolicyClientError, ValueError) as error:
        print(f"real_robot_loop: {error}")
        return 2
    except KeyboardInterrupt:
        print("stopped by hand")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
