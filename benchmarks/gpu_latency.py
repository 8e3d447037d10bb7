"""Latency of one inference on a card: phases against their rooflines, variants side by side, batches, memory.

    python benchmarks/gpu_latency.py [--size full|mid|small] [--seconds 180] [--rounds 20] [--out FILE]

What the time does not suffice for is listed as not measured. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from common import MID, interleaved, random_observation, ratio
from gpu_variants import compiled, difference, variants
from phases import phases
from reporting import report
from vlascope_server.model import (
    CAMERAS,
    GemmaConfig,
    Pi0Config,
    VisionConfig,
    fuse_for_inference,
    init_params,
    sample_actions,
)
from vlascope_server.model.config import full_size
from work import count_work

STEPS = 10
SMALL = Pi0Config(
    VisionConfig(width=32, depth=3, mlp_dim=64, num_heads=2, image_size=28),
    GemmaConfig(32, 4, 64, num_heads=2, num_kv_heads=1, head_dim=16),
    GemmaConfig(16, 4, 32, num_heads=2, num_kv_heads=1, head_dim=16),
    vocabulary=64, action_horizon=4, max_token_len=8,
)  # fmt: skip
"""For a dry run: every line of this file in seconds on a CPU."""
SIZES = {"full": full_size(), "mid": MID, "small": SMALL}


class Clock:
    """How much of the time that was given is left."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self._end - time.monotonic()


def chosen(size: str) -> Pi0Config:
    """The policy of a size, in the dtype that it is served in."""
    return dataclasses.replace(SIZES[size], dtype="float32" if jax.default_backend() == "cpu" else "bfloat16")


def rates(size: str, rounds: int) -> tuple[float, float]:
    """What this card does, measured: operations a second of a large matrix product, bytes a second of a copy."""
    n, count = (8192, 1 << 29) if size == "full" else (256, 1 << 16)
    dtype = jnp.dtype(chosen(size).dtype)
    square = jax.random.normal(jax.random.key(2), (n, n), jnp.float32).astype(dtype)
    long = jnp.zeros(count, jnp.float32)
    matmul, add = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    seconds = interleaved({"matmul": lambda: matmul(square), "add": lambda: add(long)}, rounds)
    return 2 * n**3 / statistics.median(seconds["matmul"]), 2 * long.nbytes / statistics.median(seconds["add"])


def by_phase(
    config: Pi0Config, params: Any, rounds: int, machine: tuple[float, float], cameras: tuple[int, ...], clock: Clock
) -> dict[str, Any]:
    """Seconds of the whole and of each phase, for so many cameras, beside what the machine could do."""
    found: dict[str, Any] = {}
    print(f"{'cameras':>7} {'phase':>8} {'ms':>9} {'roofline ms':>11} {'ratio':>6} {'share':>6}")
    for count in cameras:
        if clock.left < 60:
            found[str(count)] = {"not_measured": "out of time"}
            continue
        some = config.with_cameras(*CAMERAS[:count])
        noise = jax.random.normal(jax.random.key(1), (1, some.action_horizon, some.action_dim))
        calls = phases(params, some, random_observation(some), noise, STEPS)
        measured = interleaved(calls, rounds)
        seconds = {name: statistics.median(each) for name, each in measured.items()}
        work = count_work(some, 1, STEPS, jnp.dtype(config.dtype).itemsize)
        bounds = {name: phase.seconds(*machine) for name, phase in work.phases.items()}
        bounds = {"whole": work.seconds(*machine), **bounds, "prefix": bounds["vision"] + bounds["prefix"]}
        rows = {}
        for name, value in seconds.items():
            share = ratio(measured[name], measured["whole"])
            rows[name] = {"seconds": value, "roofline": bounds[name], "share_of_whole": share}
            print(f"{count:>7} {name:>8} {value * 1e3:>9.3f} {bounds[name] * 1e3:>11.3f} {value / bounds[name]:>6.2f}"
                  f" {share:>6.2f}")  # fmt: skip
        found[str(count)] = rows
    return found


def by_variant(config: Pi0Config, params: Any, rounds: int, clock: Clock) -> list[dict[str, Any]]:
    """Every variant that there is time for, in turns with the plain program: seconds, ratio, difference, compile time."""
    observation = random_observation(config)
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))
    call = functools.partial(_sample, config)
    arguments = (params, observation, noise)
    rows, plain, actions, longest = [], None, None, 0.0
    print(f"{'variant':<24} {'ms':>9} {'/ plain':>8} {'off by':>9} {'compile s':>9}")
    for variant in variants((config.vision.depth, config.vlm.depth, STEPS)):
        row: dict[str, Any] = {"name": variant.name, "says": variant.says, "options": dict(variant.options)}
        rows.append(row)
        if clock.left < longest + 5:
            row["not_measured"] = "out of time"
            print(f"{variant.name:<24} out of time")
            continue
        begun = time.perf_counter()
        try:
            program = compiled(call, arguments, variant)
            found = jax.block_until_ready(program(*arguments))
        except Exception as error:  # whatever a compiler says of one variant, the others are measured
            row["not_measured"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            print(f"{variant.name:<24} {row['not_measured'][:80]}")
            continue
        row["compile_seconds"] = time.perf_counter() - begun
        longest = max(longest, row["compile_seconds"])
        plain, actions = (program, found) if plain is None else (plain, actions)
        seconds = interleaved({"plain": lambda p=plain: p(*arguments), "it": lambda p=program: p(*arguments)}, rounds)
        row |= {
            "seconds": statistics.median(seconds["it"]),
            "over_plain": ratio(seconds["it"], seconds["plain"]),
            "largest_difference": difference(found, found if actions is None else actions),
            "kernels": _instructions(program),
        }
        print(f"{variant.name:<24} {row['seconds'] * 1e3:>9.3f} {row['over_plain']:>8.3f} {row['largest_difference']:>9.1e}"
              f" {row['compile_seconds']:>9.1f}")  # fmt: skip
    return rows


def by_batch(config: Pi0Config, params: Any, rounds: int, machine: tuple[float, float], clock: Clock) -> list[dict]:
    """Latency, actions a second and the share of the roofline for batches of 1 to 16, with two cameras as LIBERO has."""
    config, rows = config.with_cameras(*CAMERAS[:2]), []
    print(f"{'batch':>5} {'ms':>9} {'of roofline':>11} {'chunks/s':>9} {'GB in use':>9}")
    for batch in (1, 2, 4, 8, 16):
        if clock.left < 20 and rows:
            rows.append({"batch": batch, "not_measured": "out of time"})
            continue
        noise = jax.random.normal(jax.random.key(1), (batch, config.action_horizon, config.action_dim))
        observation = random_observation(config, batch)
        call = lambda o=observation, x=noise: sample_actions(params, config, o, x, num_steps=STEPS)[0]  # noqa: E731
        seconds = statistics.median(interleaved({"it": call}, rounds)["it"])
        bound = count_work(config, batch, STEPS, jnp.dtype(config.dtype).itemsize).seconds(*machine)
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        rows.append({"batch": batch, "seconds": seconds, "roofline": bound, "peak_bytes": memory})
        print(f"{batch:>5} {seconds * 1e3:>9.3f} {bound / seconds:>11.2f} {batch / seconds:>9.1f} {memory / 1e9:>9.2f}")
    return rows


def _sample(config: Pi0Config, params: Any, observation: Any, noise: jax.Array) -> jax.Array:
    return inspect.unwrap(sample_actions)(params, config, observation, noise, num_steps=STEPS)[0]


def _instructions(program: Any) -> int | None:
    """Fusions and library calls of the compiled program, those of a loop's body once: what a launch is spent on."""
    text = program.as_text()
    return None if text is None else sum(text.count(f" {kind}(") for kind in ("fusion", "custom-call", "copy"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    clock, config = Clock(args.seconds), chosen(args.size)
    params = fuse_for_inference(init_params(config, dtype=config.dtype))
    machine = rates(args.size, args.rounds)
    print(f"matmul {machine[0] / 1e12:.1f} TFLOP/s, memory {machine[1] / 1e12:.2f} TB/s")
    results: dict[str, Any] = {"matmul_flop_per_s": machine[0], "memory_bytes_per_s": machine[1], "rounds": args.rounds}
    results["phases"] = by_phase(config, params, args.rounds, machine, (3,), clock)
    results["variants"] = by_variant(config, params, args.rounds, clock)
    results["batches"] = by_batch(config, params, args.rounds, machine, clock)
    results["phases"] |= by_phase(config, params, args.rounds, machine, (2, 1), clock)
    report("gpu_latency", dataclasses.asdict(config), results, args.out, jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
