"""How close one inference comes to what the machine can do, and what an absent camera saves.

On a CPU: the mid-size model in float32, latency as a share of the machine's own matmul rate, measured in turns with it.
On a GPU: the full-size pi0 in bfloat16 with random weights, latency over the roofline, whose two rates (bfloat16 matmul,
memory) are measured in the same run, for one to three cameras and batches of 1 to 16.

    python benchmarks/inference.py [--size mid|full] [--rounds 7] [--out FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
from common import MID, interleaved, random_observation, ratio
from reporting import report
from vlascope_server.model import CAMERAS, Pi0Config, fuse_for_inference, init_params, sample_actions
from vlascope_server.model.config import full_size
from work import count_work

STEPS = 10
REFERENCE_SHARE = 0.45
"""Of the reference's own jitted sampling at this size, masked camera or not: median of 7 calls, quiet two-core machine."""


def share_of_matmul(config: Pi0Config, rounds: int) -> dict:
    """Three cameras against the matmul rate, and two and one camera against three."""
    params, n = fuse_for_inference(init_params(config)), 2048
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))
    square = jax.random.normal(jax.random.key(2), (n, n), jnp.float32)
    matmul = jax.jit(lambda x: x @ x)
    calls = {"matmul": lambda: matmul(square)}
    for cameras in (3, 2, 1):
        some = config.with_cameras(*CAMERAS[:cameras])
        observation = random_observation(some)
        calls[f"{cameras} cameras"] = lambda c=some, o=observation: sample_actions(
            params, c, o, noise, num_steps=STEPS
        )[0]
    seconds = interleaved(calls, rounds)
    rates = [2 * n**3 / s for s in seconds["matmul"]]
    work = count_work(config, 1, STEPS, 4)
    shares = [work.operations / s / rate for s, rate in zip(seconds["3 cameras"], rates, strict=True)]
    results = {
        "matmul_gflop_per_s": statistics.median(rates) / 1e9,
        "gflop_counted": work.operations / 1e9,
        "seconds_three_cameras": statistics.median(seconds["3 cameras"]),
        "share_of_matmul_rate": statistics.median(shares),
        "share_of_matmul_rate_reference": REFERENCE_SHARE,
        "two_cameras_over_three": ratio(seconds["2 cameras"], seconds["3 cameras"]),
        "one_camera_over_three": ratio(seconds["1 cameras"], seconds["3 cameras"]),
        "rounds": rounds,
    }
    for name, value in results.items():
        print(f"{name:<32} {value:>10.3f}")
    return results


def over_roofline(config: Pi0Config, rounds: int) -> dict:
    """Latency over the roofline, whose phases have one each and follow each other, by cameras and batch size."""
    params = fuse_for_inference(init_params(config, dtype="bfloat16"))
    matmul_rate, memory_rate = _device_rates(rounds)
    rows = []
    print(f"matmul {matmul_rate / 1e12:.0f} TFLOP/s, memory {memory_rate / 1e12:.2f} TB/s")
    print(f"{'cameras':>7} {'batch':>5} {'ms':>8} {'roofline ms':>11} {'ratio':>6} {'actions/s':>10}")
    for cameras in (3, 2, 1):
        some = config.with_cameras(*CAMERAS[:cameras])
        for batch in (1, 2, 4, 8, 16):
            observation = random_observation(some, batch)
            noise = jax.random.normal(jax.random.key(1), (batch, some.action_horizon, some.action_dim))
            call = lambda c=some, o=observation, x=noise: sample_actions(params, c, o, x, num_steps=STEPS)[0]  # noqa: E731
            seconds = statistics.median(interleaved({"call": call}, rounds)["call"])
            work = count_work(some, batch, STEPS, 2)
            bound = work.seconds(matmul_rate, memory_rate)
            rows.append({"cameras": cameras, "batch": batch, "seconds": seconds, "over_roofline": seconds / bound})
            print(f"{cameras:>7} {batch:>5} {seconds * 1e3:>8.2f} {bound * 1e3:>11.2f} {seconds / bound:>6.2f} "
                  f"{batch / seconds:>10.1f}")  # fmt: skip
    return {"matmul_flop_per_s": matmul_rate, "memory_bytes_per_s": memory_rate, "rows": rows, "rounds": rounds}


def _device_rates(rounds: int) -> tuple[float, float]:
    n = 8192
    square = jax.random.normal(jax.random.key(2), (n, n), jnp.bfloat16)
    long = jnp.zeros(1 << 30, jnp.float32)
    matmul, add = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    seconds = interleaved({"matmul": lambda: matmul(square), "add": lambda: add(long)}, rounds)
    return 2 * n**3 / statistics.median(seconds["matmul"]), 2 * long.nbytes / statistics.median(seconds["add"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = jax.default_backend() == "gpu"
    parser.add_argument("--size", choices=("mid", "full"), default="full" if gpu else "mid")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    if args.size == "mid":
        config, results = MID, share_of_matmul(MID, args.rounds)
    else:
        config = dataclasses.replace(full_size(), dtype="bfloat16")
        results = over_roofline(config, args.rounds)
    report("inference", dataclasses.asdict(config), results, args.out, jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
