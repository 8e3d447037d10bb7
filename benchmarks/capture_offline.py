"""What capturing recorded frames costs beside the policy: frames a second of `vlascope-server capture` over those of bare
inference in batches of the same size, with the same captured program (bound: 0.9).

The capture reads files of saved observations (two cameras, 256 pixels), prepares every frame, computes, and stores what the
default spec keeps, each frame durable. The bare inference has its inputs prepared, and what it captures stays on the device.
They take turns.

    python benchmarks/capture_offline.py [--size tiny|mid|full] [--frames 128] [--batch-size 8] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, options_of, report, verdict
from models import device, served_size, usual_size
from vlascope_base.progress import silent
from vlascope_server.capturing.batches import FrameWarnings, batches_of, prepared_batches
from vlascope_server.capturing.capture import PreparedCapture, capture, opened_run, prepare_capture
from vlascope_server.capturing.options import CaptureOptions
from vlascope_server.policies.contract import Policy, RequestShape
from vlascope_server.policies.loading import load_policy
from vlascope_server.presets import SEEDED
from vlascope_sim.environment.libero import SensorReadings
from vlascope_sim.rollout.observations import Inference, ObservationsFile

BOUND = 0.9
_PIXELS, _OF_AN_EPISODE = 256, 32
_DRAWN = "benchmark-drawn"


class CompiledOnce:
    """A policy whose programs are kept: every round runs the same one."""

    def __init__(self, policy: Policy[Any]):
        self._policy = policy
        self.compile = functools.cache(policy.compile)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def policy_of(size: str) -> Policy[Any]:
    """The bundled policy, or one of another size with drawn weights."""
    if size == "tiny":
        return load_policy("tiny")
    SEEDED[_DRAWN] = dataclasses.replace(served_size(size), cameras=("base_0_rgb", "left_wrist_0_rgb"))
    return load_policy(_DRAWN)


def record(folder: Path, frames: int) -> None:
    """Saved observations of random pictures, which compress as badly as any can."""
    (folder / "observations").mkdir(parents=True)
    for episode, first in enumerate(range(0, frames, _OF_AN_EPISODE)):
        file, rng = ObservationsFile(), np.random.default_rng(episode)
        for number in range(min(_OF_AN_EPISODE, frames - first)):
            image, wrist = rng.integers(0, 256, (2, _PIXELS, _PIXELS, 3), np.uint8)
            seen = SensorReadings(image, wrist, rng.standard_normal(8))
            file.saw(Inference(5 * number, number, captured=True), seen, None)
            file.did(np.zeros(7, np.float32))
        about = {
            "robot": "libero", "prompt": "pick up the milk and place it in the basket", "policy": {}, "ended": {},
            "episode": {"id": f"recorded+{episode}"}, "capture_spec": None,
        }  # fmt: skip
        file.write(folder / "observations" / f"{episode}.npz", about)


def bare_seconds(prepared: PreparedCapture, policy: Policy[Any]) -> float:
    """Seconds that the program takes for all batches, whose inputs are prepared before."""
    lengths = [len(episode) for episode in prepared.recording.episodes]
    batches = list(
        prepared_batches(policy, prepared.recording, batches_of(lengths, prepared.batch_size, ()), FrameWarnings())
    )
    program = policy.compile(RequestShape(prepared.plan), prepared.batch_size)
    np.asarray(program.run(batches[0].prepared, batches[0].drawn).actions)
    begun = time.perf_counter()
    for batch in batches:
        np.asarray(program.run(batch.prepared, batch.drawn).actions)
    return time.perf_counter() - begun


def measure(size: str, frames: int, batch_size: int | None, rounds: int) -> Results:
    """Both, in turns."""
    policy: Any = CompiledOnce(policy_of(size))
    bare, offline = [], []
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen"
        record(seen, frames)
        for number in range(rounds + 1):
            options = CaptureOptions(
                checkpoint=size,
                observations=Path(folder) / "seen",
                store=Path(folder) / f"runs-{number}",
                batch_size=batch_size,
            )
            prepared = prepare_capture(lambda: policy, options, silent)
            bare.append(bare_seconds(prepared, policy))
            with opened_run(prepared) as run:
                offline.append(capture(prepared, run, lambda *_: None).seconds)
    bare, offline = bare[1:], offline[1:]  # the first round warms files and pages up
    ratios = [b / o for b, o in zip(bare, offline, strict=True)]
    return {
        "bare_frames_per_second": frames / statistics.median(bare),
        "capture_frames_per_second": frames / statistics.median(offline),
        "capture_over_bare": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "bytes_of_a_frame": prepared.plan.nbytes,
        "batch_size": prepared.batch_size,
        "rounds": rounds,
    }


def main() -> None:
    """Command line."""
    parser = options_of(__doc__)
    parser.add_argument("--size", choices=("tiny", "mid", "full"), default=usual_size())
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--batch-size", type=int, help="the command's own unless given")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    results = measure(args.size, args.frames, args.batch_size, args.rounds)
    for name, value in results.items():
        print(f"{name:<28} {value:>14.3f}")
    print(f"bound {BOUND}: {verdict(results['capture_over_bare'] >= BOUND)}")
    report("capture_offline", {"size": args.size, "frames": args.frames}, results, args.out, device())


if __name__ == "__main__":
    main()
