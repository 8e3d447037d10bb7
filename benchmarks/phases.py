"""The phases of one inference as programs of their own, so that each can be held against its own roofline.

Vision is part of what leaves the prefix's cache; `prefix` is both, and the language model's share is the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from vlascope_server.model import ModelInputs, Pi0Config, pi0
from vlascope_server.model.inputs import pixels
from vlascope_server.model.parameters import Params, under
from vlascope_server.model.sites import Sites
from vlascope_server.model.vision import encode_images


def phases(
    params: Params, config: Pi0Config, inputs: ModelInputs, noise: Float[Array, "B A a"], num_steps: int
) -> dict[str, Callable[[], Any]]:
    """Calls that run the whole inference and each of its phases.

    Args:
        params: after `fuse_for_inference`.
        config: of the policy.
        inputs: what it sees.
        noise: the flow's beginning.
        num_steps: denoise steps.

    Returns:
        `whole`, `vision`, `prefix` (vision and the vision-language expert) and `denoise`, compiled at their first call.
    """

    @jax.jit
    def vision(params: Params, inputs: ModelInputs) -> list[jax.Array]:
        img = under(params, "PaliGemma/img")
        return [encode_images(img, config.vision, pixels(inputs.images[c]), config.dtype) for c in config.cameras]

    @jax.jit
    def prefix(params: Params, inputs: ModelInputs) -> Any:
        context = pi0._read(params, config, inputs, Sites(None, inputs.batch_size))
        # the weights are in it too, and would be copied on their way out
        return context.cache, context.bias, context.rotation

    @jax.jit
    def denoise(params: Params, inputs: ModelInputs, noise: jax.Array, left: Any) -> jax.Array:
        context = pi0.Context(params, pi0.expert_layers(params, 1), inputs.state, *left)
        conditions = pi0._condition(params, config, pi0.flow_times(num_steps)[:, None])

        nothing = Sites(None, inputs.batch_size).expert("action", context.valid)

        def step(x_t: jax.Array, condition: pi0.Condition) -> tuple[jax.Array, None]:
            return x_t - pi0._velocity(config, context, x_t, condition, nothing) / jnp.float32(num_steps), None

        return jax.lax.scan(step, noise, conditions)[0]

    left = prefix(params, inputs)
    return {
        "whole": lambda: pi0.sample_actions(params, config, inputs, noise, num_steps=num_steps)[0],
        "vision": lambda: vision(params, inputs),
        "prefix": lambda: prefix(params, inputs),
        "denoise": lambda: denoise(params, inputs, noise, left),
    }
