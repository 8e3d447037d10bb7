"""What capturing the full residual stream of both experts adds to an inference: latency with over latency without.

The captured arrays stay on the device, in the spec's bfloat16; copying and storing them is the server's and the store's
benchmark. The two programs take turns.

    python benchmarks/capture_overhead.py [--size mid|full] [--rounds 15] [--out FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import jax
from common import MID, interleaved, random_observation, ratio
from reporting import report
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_server.model import fuse_for_inference, init_params, sample_actions
from vlascope_server.model.config import full_size

STEPS = 10


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = jax.default_backend() == "gpu"
    parser.add_argument("--size", choices=("mid", "full"), default="full" if gpu else "mid")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    config = MID if args.size == "mid" else dataclasses.replace(full_size(), dtype="bfloat16")
    params = fuse_for_inference(init_params(config, dtype=config.dtype))
    observation = random_observation(config)
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))
    full = CaptureSpec()

    def call(capture: CaptureSpec | None):
        return lambda: sample_actions(params, config, observation, noise, num_steps=STEPS, capture=capture)

    seconds = interleaved({"plain": call(None), "capture": call(full)}, args.rounds)
    results = {
        "seconds_plain": statistics.median(seconds["plain"]),
        "seconds_capture": statistics.median(seconds["capture"]),
        "bytes_captured": plan_capture(full, config.layout(STEPS)).nbytes,
        "capture_over_plain": ratio(seconds["capture"], seconds["plain"]),
        "rounds": args.rounds,
    }
    for name, value in results.items():
        print(f"{name:<24} {value:>14.3f}")
    report("capture_overhead", dataclasses.asdict(config), results, args.out, jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
