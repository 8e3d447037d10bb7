"""What the benchmarks share: interleaved timing, model inputs, and the one JSON line at the end.

Knows nothing of what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from vlascope_server.model import GemmaConfig, Observation, Pi0Config, VisionConfig

MID = Pi0Config(
    VisionConfig(width=384, depth=12, mlp_dim=1536, num_heads=6),
    GemmaConfig(512, 18, 2048, num_heads=8, num_kv_heads=1, head_dim=64),
    GemmaConfig(256, 18, 1024, num_heads=8, num_kv_heads=1, head_dim=64),
    vocabulary=1024,
)
"""109M parameters: large enough that matrix products dominate, small enough for a CPU. The size of the reference's time."""


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times, taking turns: what slows this machine down then slows all of them.

    Every call runs once before, so that nothing compiles inside a measurement.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of the ratio of two calls that took turns."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def random_observation(config: Pi0Config, batch_size: int = 1, seed: int = 0) -> Observation:
    """A batch of noise images and a prompt without padding, on the device."""
    rng = np.random.default_rng(seed)
    B, size, n = batch_size, config.vision.image_size, config.max_token_len
    return Observation(
        images={c: jnp.asarray(rng.integers(0, 256, (B, size, size, 3), np.uint8)) for c in config.cameras},
        image_masks={c: jnp.ones(B, bool) for c in config.cameras},
        state=jnp.asarray(rng.standard_normal((B, config.action_dim), np.float32)),
        prompt=jnp.asarray(rng.integers(0, config.vocabulary, (B, n), np.int32)),
        prompt_mask=jnp.ones((B, n), bool),
    )


def report(name: str, config: Pi0Config, results: dict, out: Path | None) -> None:
    """Ends a benchmark with one JSON line: results, configuration, versions, revision, machine; to `out` too, if given."""
    line = {
        "benchmark": name,
        "results": results,
        "config": dataclasses.asdict(config),
        "device": jax.devices()[0].device_kind,
        "machine": {
            "cores": len(jax.devices()) if jax.default_backend() != "cpu" else _cores(),
            "cpu": platform.machine(),
        },
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
        "revision": _revision(),
    }
    print(json.dumps(line))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(line, indent=1) + "\n")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _revision() -> str:
    root = Path(__file__).parent
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"
