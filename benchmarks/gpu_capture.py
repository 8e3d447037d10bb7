"""What capture costs on a card: latency beside the plain program, equality to the bit, and the way of the arrays to the disk.

    python benchmarks/gpu_capture.py [--size full|mid|small] [--seconds 90] [--rounds 20] [--folder DIR] [--out FILE]

Bytes are timed three ways: to the host after each inference, to the host while the next one runs, and into a latent store
in `--folder`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import interleaved, random_observation, ratio
from gpu_latency import SIZES, STEPS, Clock, chosen
from reporting import report
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_server.model import Pi0Config, fuse_for_inference, init_params, sample_actions

SPECS = {
    "full residual": CaptureSpec(),
    "mean over spans": CaptureSpec(spans=("image", "text", "action"), reduction="mean"),
    "action expert": CaptureSpec(experts=("action",)),
    "every fourth layer": None,
}


def spec_of(name: str, config: Pi0Config) -> CaptureSpec:
    """The spec of a row; layers depend on the model."""
    return SPECS[name] or CaptureSpec(layers=tuple(range(0, config.vlm.depth, 4)))


def by_spec(config: Pi0Config, params: Any, rounds: int, clock: Clock) -> list[dict[str, Any]]:
    """Latency over the plain program's, and whether the actions are the same to the bit."""
    observation = random_observation(config)
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))

    def call(capture: CaptureSpec | None):
        return lambda: sample_actions(params, config, observation, noise, num_steps=STEPS, capture=capture)

    rows = []
    plain = np.asarray(call(None)()[0])
    print(f"{'captured':<20} {'MB':>8} {'ms':>9} {'/ plain':>8} {'same bits':>9}")
    for name in SPECS:
        if clock.left < 15 and rows:
            rows.append({"spec": name, "not_measured": "out of time"})
            continue
        spec = spec_of(name, config)
        seconds = interleaved({"plain": call(None), "it": call(spec)}, rounds)
        same = bool((np.asarray(call(spec)()[0]) == plain).all())
        nbytes = plan_capture(spec, config.layout(STEPS)).nbytes
        row = {"spec": name, "bytes": nbytes, "seconds": statistics.median(seconds["it"]), "same_bits": same}
        rows.append(row | {"over_plain": ratio(seconds["it"], seconds["plain"])})
        print(
            f"{name:<20} {nbytes / 1e6:>8.2f} {row['seconds'] * 1e3:>9.3f} {rows[-1]['over_plain']:>8.3f} {same!s:>9}"
        )
    return rows


def to_the_host(config: Pi0Config, params: Any, rounds: int) -> dict[str, float]:
    """Bytes a second of the full residual stream on its way to the host: waited for, and while the next inference runs."""
    observation = random_observation(config)
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))
    spec = CaptureSpec()
    nbytes = plan_capture(spec, config.layout(STEPS)).nbytes

    def run() -> dict[str, jax.Array]:
        return sample_actions(params, config, observation, noise, num_steps=STEPS, capture=spec)[1]

    def start(latents: dict[str, jax.Array]) -> None:
        for array in latents.values():
            array.copy_to_host_async()

    jax.block_until_ready(run())
    alone, copies, overlapped = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        latents = jax.block_until_ready(run())
        alone.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        start(latents)
        [np.asarray(array) for array in latents.values()]
        copies.append(time.perf_counter() - begun)
    before = jax.block_until_ready(run())
    for _ in range(rounds):
        begun = time.perf_counter()
        latents = run()
        start(before)
        [np.asarray(array) for array in before.values()]
        before = jax.block_until_ready(latents)
        overlapped.append(time.perf_counter() - begun)
    found = {
        "bytes": float(nbytes),
        "seconds_alone": statistics.median(alone),
        "seconds_of_copy": statistics.median(copies),
        "copy_bytes_per_s": nbytes / statistics.median(copies),
        "overlapped_over_alone": statistics.median(overlapped) / statistics.median(alone),
    }
    for name, value in found.items():
        print(f"{name:<24} {value:>16.4g}")
    return found


def into_a_store(config: Pi0Config, params: Any, folder: Path, frames: int) -> dict[str, float]:
    """Bytes a second from the card through the store's writer to synced files."""
    from vlascope_latents.store import RunWriter  # only this needs zarr

    observation = random_observation(config)
    noise = jax.random.normal(jax.random.key(1), (1, config.action_horizon, config.action_dim))
    spec = CaptureSpec()
    plan = plan_capture(spec, config.layout(STEPS))
    latents = sample_actions(params, config, observation, noise, num_steps=STEPS, capture=spec)[1]
    arrays = {path: np.asarray(array)[0] for path, array in latents.items()}
    begun = time.perf_counter()
    with RunWriter.create(folder, "benchmark", config.layout(STEPS)) as run:
        episode = run.open_episode("e", {}, plan)
        for number in range(frames):
            episode.append(arrays, timestep=number)
        committed = episode.seal()
    seconds = time.perf_counter() - begun
    if committed != frames:
        raise SystemExit(f"{committed} of {frames} frames committed")
    found = {"frames": float(frames), "bytes_per_s": frames * plan.nbytes / seconds}
    print(f"{frames} frames into the store: {found['bytes_per_s'] / 1e9:.2f} GB/s")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where the store is written; a temporary folder unless given")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    clock, config = Clock(args.seconds), chosen(args.size)
    params = fuse_for_inference(init_params(config, dtype=config.dtype))
    results: dict[str, Any] = {"specs": by_spec(config, params, args.rounds, clock)}
    results["to_the_host"] = to_the_host(config, params, args.rounds)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        results["into_a_store"] = into_a_store(config, params, Path(folder), 20)
    report("gpu_capture", dataclasses.asdict(config), results, args.out, jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
