"""What the model's benchmarks share: interleaved timing, the mid size, inputs.

Knows nothing of what is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from vlascope_server.model import GemmaConfig, ModelInputs, Pi0Config, VisionConfig

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


def random_observation(config: Pi0Config, batch_size: int = 1, seed: int = 0) -> ModelInputs:
    """A batch of noise images and a prompt without padding, on the device."""
    rng = np.random.default_rng(seed)
    B, size, n = batch_size, config.vision.image_size, config.max_token_len
    return ModelInputs(
        images={c: jnp.asarray(rng.integers(0, 256, (B, size, size, 3), np.uint8)) for c in config.cameras},
        image_masks={c: jnp.ones(B, bool) for c in config.cameras},
        state=jnp.asarray(rng.standard_normal((B, config.action_dim), np.float32)),
        prompt=jnp.asarray(rng.integers(0, config.vocabulary, (B, n), np.int32)),
        prompt_mask=jnp.ones((B, n), bool),
    )
