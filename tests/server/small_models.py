"""Models small enough to compile in seconds, with weights that make every branch matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from vlascope_server.model import GemmaConfig, Lora, ModelInputs, Params, Pi0Config, VisionConfig, parameter_shapes


def small_config(**changes) -> Pi0Config:
    """Three layers, experts of different width, two kv heads, 4 tokens a camera."""
    lora = changes.pop("lora", None) and Lora(2, 3.0)
    return Pi0Config(
        **{
            "vision": VisionConfig(12, 2, 20, num_heads=2, patch_size=7, image_size=14),
            "vlm": GemmaConfig(32, 3, 48, 4, 2, 8, lora, lora),
            "action": GemmaConfig(24, 3, 40, 4, 2, 8, lora, lora),
            "vocabulary": 64,
            "action_dim": 8,
            "action_horizon": 5,
            "max_token_len": 6,
        }
        | changes
    )


def noisy_params(config: Pi0Config, seed: int = 0) -> Params:
    """Weights without a zero among them: fresh biases, adapters and adaptive norms would hide what they do."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape, np.float32) / np.sqrt(shape[-2] if len(shape) > 1 else 9.0))
        for name, shape in parameter_shapes(config).items()
    }


def random_inputs(config: Pi0Config, batch_size: int = 1, seed: int = 0) -> tuple[ModelInputs, jax.Array]:
    """An observation whose prompts are padded differently, and noise."""
    rng = np.random.default_rng(seed)
    B, size, n = batch_size, config.vision.image_size, config.max_token_len
    inputs = ModelInputs(
        images={c: jnp.asarray(rng.uniform(-1, 1, (B, size, size, 3)), jnp.float32) for c in config.cameras},
        image_masks={c: jnp.ones(B, bool) for c in config.cameras},
        state=jnp.asarray(rng.standard_normal((B, config.action_dim)), jnp.float32),
        prompt=jnp.asarray(rng.integers(1, config.vocabulary, (B, n)), jnp.int32),
        prompt_mask=jnp.asarray(np.arange(n)[None] < rng.integers(2, n + 1, (B, 1))),
    )
    return inputs, jnp.asarray(rng.standard_normal((B, config.action_horizon, config.action_dim)), jnp.float32)
