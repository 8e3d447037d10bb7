"""Turns the model's inputs and a flow state into the token sequences of the two experts.

B batch, S prefix tokens (image, text), T suffix tokens (state, action), D width of the expert, A horizon, a action dims,
Q denoise steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vlascope_server.model.config import Pi0Config
from vlascope_server.model.inputs import ModelInputs, pixels
from vlascope_server.model.parameters import Params, under
from vlascope_server.model.vision import encode_images

_MIN_PERIOD, _MAX_PERIOD = 4e-3, 4.0
"""Periods of the denoise time's sine embedding, in units of the whole flow (pi0, appendix B)."""


class Prefix(NamedTuple):
    """The vision-language expert's input."""

    tokens: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]
    positions: Int[Array, "B S"]


def embed_prefix(params: Params, config: Pi0Config, inputs: ModelInputs) -> Prefix:
    """Image tokens of the configured cameras, then the prompt's.

    Positions count the valid tokens only: a masked camera and padding consume none.
    """
    B = inputs.batch_size
    images = jnp.concatenate([pixels(inputs.images[camera]) for camera in config.cameras])
    image_tokens = encode_images(under(params, "PaliGemma/img"), config.vision, images, config.dtype)
    # cameras were stacked before the batch; tokens of one sample belong in one row
    image_tokens = image_tokens.reshape(len(config.cameras), B, *image_tokens.shape[1:]).swapaxes(0, 1)
    tokens = [image_tokens.reshape(B, -1, image_tokens.shape[-1]), embed_prompt(params, config, inputs.prompt)]
    valid = [jnp.repeat(inputs.image_masks[camera][:, None], config.vision.tokens, 1) for camera in config.cameras]
    mask = jnp.concatenate([*valid, inputs.prompt_mask], axis=1)
    return Prefix(jnp.concatenate(tokens, axis=1), mask, jnp.cumsum(mask, axis=1) - 1)


def embed_prompt(params: Params, config: Pi0Config, prompt: Int[Array, "B n"]) -> Float[Array, "B n D"]:
    """Text tokens, scaled by sqrt(width); image tokens are not."""
    table = params["PaliGemma/llm/embedder/input_embedding"]
    return (table[prompt] * jnp.sqrt(config.vlm.width).astype(table.dtype)).astype(config.dtype)


def suffix_attention(
    config: Pi0Config, prefix_valid: Bool[Array, "B S"]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T S+T"]]:
    """Positions of the suffix tokens, which go on counting where the valid prefix ends, and what each of them sees.

    All see the valid prefix. Pi0's state token does not see the actions; an action sees the state and every action.
    """
    B, S = prefix_valid.shape
    blocks = np.array(([] if config.pi05 else [0]) + [1] * config.action_horizon)
    T = len(blocks)
    positions = jnp.sum(prefix_valid, axis=1)[:, None] + jnp.arange(T)[None, :]
    onto_prefix = jnp.broadcast_to(prefix_valid[:, None, :], (B, T, S))
    within = jnp.broadcast_to(blocks[None, :] <= blocks[:, None], (B, T, T))
    return positions, jnp.concatenate([onto_prefix, within], axis=-1)


def embed_suffix(
    params: Params,
    config: Pi0Config,
    state: Float[Array, "B a"],
    x_t: Float[Array, "B A a"],
    time_embedding: Float[Array, "#B D"],
) -> Float[Array, "B T D"]:
    """The action expert's input at one denoise step: [state, actions] for pi0, actions alone for pi0.5.

    In pi0 the time is mixed into every action token; in pi0.5 it acts through the norms (`time_condition`).
    """
    tokens = linear(params, "action_in_proj", x_t)
    if not config.pi05:
        time = jnp.broadcast_to(time_embedding[:, None, :], tokens.shape)
        tokens = linear(params, "action_time_mlp_in", jnp.concatenate([tokens, time], axis=-1))
        tokens = linear(params, "action_time_mlp_out", jax.nn.swish(tokens))
        tokens = jnp.concatenate([linear(params, "state_proj", state)[:, None], tokens], axis=1)
    return tokens.astype(config.dtype)


def time_condition(params: Params, time_embedding: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
    """Pi0.5: what the adaptive norms are conditioned on."""
    hidden = jax.nn.swish(linear(params, "time_mlp_in", time_embedding))
    return jax.nn.swish(linear(params, "time_mlp_out", hidden))


def flow_times(num_steps: int) -> Float[Array, " Q"]:
    """The time of each denoise step, from 1 (noise) down; accumulated in float32, as the reference does.

    1 - k / num_steps differs in the last digits, which the time embedding's short periods amplify.
    """
    step = jnp.float32(-1.0 / num_steps)
    _, times = jax.lax.scan(lambda t, _: (t + step, t), jnp.float32(1.0), length=num_steps)
    return times


def embed_time(time: Float[Array, "*lead"], width: int) -> Float[Array, "*lead D"]:
    """Sine and cosine of the flow time at periods spaced geometrically from 0.004 to 4; float32."""
    fraction = jnp.linspace(0.0, 1.0, width // 2, dtype=jnp.float32)
    period = _MIN_PERIOD * (_MAX_PERIOD / _MIN_PERIOD) ** fraction
    angle = jnp.expand_dims(time, -1) * (1.0 / period * 2 * jnp.pi).reshape(*(1,) * time.ndim, -1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def linear(params: Params, name: str, x: Float[Array, "*lead D"]) -> Float[Array, "*lead E"]:
    """A projection between the flow and the action expert: float32 out, whatever the parameters are stored in."""
    kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
    return x.astype(jnp.float32) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)
