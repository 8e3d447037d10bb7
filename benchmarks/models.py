"""What the benchmarks of the model share: its sizes, its inputs, timing in turns, and the rates of this machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from vlascope_server.model import GemmaConfig, ModelInputs, Pi0Config, VisionConfig
from vlascope_server.model.config import full_size

STEPS = 10
"""Denoise steps of an inference."""
MID = Pi0Config(
    VisionConfig(width=384, depth=12, mlp_dim=1536, num_heads=6),
    GemmaConfig(512, 18, 2048, num_heads=8, num_kv_heads=1, head_dim=64),
    GemmaConfig(256, 18, 1024, num_heads=8, num_kv_heads=1, head_dim=64),
    vocabulary=1024,
)
"""109M parameters: large enough that matrix products dominate, small enough for a CPU. The size of the reference's time."""
SMALL = Pi0Config(
    VisionConfig(width=32, depth=3, mlp_dim=64, num_heads=2, image_size=28),
    GemmaConfig(32, 4, 64, num_heads=2, num_kv_heads=1, head_dim=16),
    GemmaConfig(16, 4, 32, num_heads=2, num_kv_heads=1, head_dim=16),
    vocabulary=64, action_horizon=4, max_token_len=8,
)  # fmt: skip
"""For a dry run: every line of a benchmark in seconds on a CPU."""
SIZES = {"full": full_size(), "mid": MID, "small": SMALL}


def usual_size() -> str:
    """`full` on a GPU, `mid` on a CPU."""
    return "full" if jax.default_backend() == "gpu" else "mid"


def published() -> Pi0Config:
    """The published Pi0 in bfloat16."""
    return dataclasses.replace(full_size(), dtype="bfloat16")


def served_size(size: str) -> Pi0Config:
    """The policy of a size, in the dtype that it is served in here."""
    return dataclasses.replace(SIZES[size], dtype="float32" if jax.default_backend() == "cpu" else "bfloat16")


def device() -> str:
    """What JAX calls the device that computes."""
    return jax.devices()[0].device_kind


def peak_bytes() -> int:
    """The most bytes of the device that were ever in use; 0 where it does not count them."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


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


def device_rates(rounds: int, *, side: int, elements: int, dtype: str = "bfloat16") -> tuple[float, float]:
    """What this device does, measured: operations a second of a matrix product, bytes a second read and written.

    Args:
        rounds: of both, in turns.
        side: of the square matrices.
        elements: float32 numbers of the array that is read and written.
        dtype: of the matrices.
    """
    square = jax.random.normal(jax.random.key(2), (side, side), jnp.float32).astype(jnp.dtype(dtype))
    long = jnp.zeros(elements, jnp.float32)
    matmul, add = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    seconds = interleaved({"matmul": lambda: matmul(square), "add": lambda: add(long)}, rounds)
    return 2 * side**3 / statistics.median(seconds["matmul"]), 2 * long.nbytes / statistics.median(seconds["add"])


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


def random_noise(config: Pi0Config, batch_size: int = 1) -> Float[Array, "B A a"]:
    """Where the flow begins."""
    return jax.random.normal(jax.random.key(1), (batch_size, config.action_horizon, config.action_dim))


class Clock:
    """How much of the time that was given is left."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self._end - time.monotonic()
