"""Pi0 and Pi0.5: sampling an action chunk, the flow-matching loss, and a teacher-forced forward, each with capture taps.

B batch, S prefix tokens, T suffix tokens, D width, L layers, Q denoise steps, A action horizon, a action dims.

The vision-language expert runs once over the prefix and leaves keys and values; the action expert runs once a denoise
step over the suffix and attends to them. Time 1 is noise, time 0 is actions.
Source: Black et al. 2024, "pi0: A Vision-Language-Action Flow Model for General Robot Control".
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from vlascope_latents import CapturePlan, CaptureSpec, plan_capture

from vlascope_server.model import gemma
from vlascope_server.model.config import Pi0Config
from vlascope_server.model.embed import (
    Prefix,
    embed_prefix,
    embed_suffix,
    embed_time,
    flow_times,
    linear,
    suffix_attention,
    time_condition,
)
from vlascope_server.model.inputs import ModelInputs, check_inputs
from vlascope_server.model.parameters import Params, expert_layers, fuse_for_inference, under
from vlascope_server.model.taps import Latents, TapSelector, empty_latents, finished, record, scan_tapped


class Draws(NamedTuple):
    """What flow matching draws: noise and flow times, of any number of samples."""

    noise: Float[Array, "*lead A a"]
    time: Float[Array, "*lead"]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What every denoise step needs beside the flow's own state.

    Attributes:
        params: of the model.
        layers: those of the action expert's blocks, stacked.
        state: of the robot.
        cache: keys and values that the prefix leaves, of every layer, stacked on a leading L.
        bias: which of the K = S + T tokens of [prefix, suffix] each suffix token sees, as `gemma.attention_bias`.
        rotation: of the suffix tokens.
        plan: what is captured; None captures nothing.
    """

    params: Params
    layers: Params
    state: Float[Array, "B a"]
    cache: gemma.KeysValues
    bias: Float[Array, "B T K"]
    rotation: gemma.Rotation
    plan: CapturePlan | None


class Condition(NamedTuple):
    """What the denoise time means to the action expert: one row b for all samples, or one for each."""

    embedding: Float[Array, "*Q b D"]
    blocks: gemma.BlockModulation | None
    """Axes *Q L b D; None in pi0, which has no adaptive norms."""
    final: gemma.Modulation | None


@functools.partial(jax.jit, static_argnames=("config", "num_steps", "capture"))
def sample_actions(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    noise: Float[Array, "B A a"],
    *,
    num_steps: int = 10,
    capture: CaptureSpec | None = None,
) -> tuple[Float[Array, "B A a"], Latents]:
    """Integrates the flow from noise (time 1) to actions (time 0) in `num_steps` Euler steps.

    Args:
        params: as a checkpoint holds them, or after `fuse_for_inference`.
        noise: float32 standard normal; the same noise and inputs give the same actions.
        capture: what to keep of the hidden states; None keeps nothing and compiles the plain program.

    Returns:
        Normalised actions in float32, and the captured arrays by `<expert>/<component>`: the batch first, then the axes
        of `plan_capture(capture, config.layout(num_steps)).tensors`.

    Raises:
        ModelInputsError: an array of the inputs does not fit `config`.
        CaptureSpecError: the spec asks for what the model does not have.
    """
    check_inputs(inputs, config)
    params = fuse_for_inference(params)
    plan = None if capture is None else plan_capture(capture, config.layout(num_steps))
    context, latents = _read(params, config, inputs, plan)
    dt = jnp.float32(-1.0 / num_steps)
    # no step's condition depends on another's, so that the weights behind them are read once
    conditions = _condition(params, config, flow_times(num_steps)[:, None])

    def denoise(carry, condition: Condition, slot: jax.Array | None):
        x_t, latents = carry
        v_t, latents = _velocity(config, context, x_t, condition, latents, slot)
        return (x_t + dt * v_t, latents), None

    selected = plan.denoise_steps if plan else ()
    (actions, latents), _ = scan_tapped(denoise, (noise, latents), conditions, selected)
    return actions, finished(latents)


@functools.partial(jax.jit, static_argnames=("config", "capture"))
def velocity(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: Float[Array, "B A a"],
    noise: Float[Array, "B A a"],
    time: Float[Array, " B"],
    *,
    capture: CaptureSpec | None = None,
) -> tuple[Float[Array, "B A a"], Latents]:
    """Teacher-forced: the velocity that the model predicts on the straight path from given actions to given noise.

    Args:
        actions: normalised actions, the path's end at time 0.
        time: of each sample, in [0, 1]; the model sees x_t = time * noise + (1 - time) * actions.
        capture: as for `sample_actions`, with this one evaluation as denoise step 0.

    Returns:
        The velocity in float32 (its target is noise - actions), and the captured arrays.
    """
    check_inputs(inputs, config)
    plan = None if capture is None else plan_capture(capture, config.layout(1))
    return _teacher_forced(params, config, inputs, actions, noise, time, plan)


def flow_loss(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: Float[Array, "B A a"],
    noise: Float[Array, "B A a"],
    time: Float[Array, " B"],
) -> Float[Array, "B A"]:
    """Flow-matching loss, mean over action dims: |v(x_t, t) - (noise - actions)|^2. Differentiable in `params`."""
    check_inputs(inputs, config)
    predicted, _ = _teacher_forced(params, config, inputs, actions, noise, time, None)
    return jnp.mean(jnp.square(predicted - (noise - actions)), axis=-1)


def flow_errors(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: Float[Array, "B A a"],
    draws: Draws,
    *,
    capture: CaptureSpec | None = None,
    remat: bool = False,
) -> tuple[Float[Array, "K B A a"], Latents]:
    """Squared error of the velocity for K draws of noise and time on each observation; the mean over a is `flow_loss`.

    The draws share one pass over the prefix, which costs most of a step. With K = 0 it is all that is computed.

    Args:
        draws: noise [K B A a] and times [K B].
        capture: as for `sample_actions`, of the vlm alone.
        remat: compute a block's activations again in the backward pass instead of keeping them: a third more work, and
            memory that hardly grows with depth.

    Returns:
        The errors, and the captured arrays. Differentiable in `params`, captured float32 arrays too.
    """
    check_inputs(inputs, config)
    params = fuse_for_inference(params)
    plan = None if capture is None else plan_capture(capture, config.layout(1))
    context, latents = _read(params, config, inputs, plan, remat)
    noise, time = draws
    share = time[..., None, None]

    def predict(x_t: jax.Array, condition: Condition) -> jax.Array:
        return _velocity(config, context, x_t, condition, {}, None, remat)[0]

    x_t = share * noise + (1 - share) * actions
    predicted = jax.vmap(predict)(x_t, _condition(params, config, time))
    return jnp.square(predicted - (noise - actions)), finished(latents)


def draw_noise_and_time(key: jax.Array, batch_size: int, config: Pi0Config) -> Draws:
    """The random inputs of one training step: standard normal noise, and times from Beta(1.5, 1) scaled into (0.001, 1]."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (batch_size, config.action_horizon, config.action_dim), jnp.float32)
    return Draws(noise, jax.random.beta(time_key, 1.5, 1.0, (batch_size,), jnp.float32) * 0.999 + 0.001)


def _teacher_forced(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: jax.Array,
    noise: jax.Array,
    time: jax.Array,
    plan: CapturePlan | None,
) -> tuple[Float[Array, "B A a"], Latents]:
    params = fuse_for_inference(params)
    context, latents = _read(params, config, inputs, plan)
    x_t = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
    condition = jax.tree.map(lambda leaf: leaf[0], _condition(params, config, time[None]))
    v_t, latents = _velocity(config, context, x_t, condition, latents, 0)
    return v_t, finished(latents)


def _read(
    params: Params, config: Pi0Config, inputs: ModelInputs, plan: CapturePlan | None, remat: bool = False
) -> tuple[Context, Latents]:
    """Runs the vision-language expert over the prefix."""
    prefix = embed_prefix(params, config, inputs)
    latents = empty_latents(plan, inputs.batch_size)
    cache, latents = _run_vlm(params, config, prefix, plan, latents, remat)
    positions, mask = suffix_attention(config, prefix.valid)
    rotation = gemma.rotary(positions, config.action.head_dim)
    context = Context(params, expert_layers(params, 1), inputs.state, cache, gemma.attention_bias(mask), rotation, plan)
    return context, latents


def _run_vlm(
    params: Params, config: Pi0Config, prefix: Prefix, plan: CapturePlan | None, latents: Latents, remat: bool
) -> tuple[gemma.KeysValues, Latents]:
    """Keys and values of every layer, and the selected taps written into `latents`.

    Keys and values are projected from a block's input, so that what the last block writes into the stream reaches no action:
    it is computed where it is captured, and nowhere else.
    """
    select = TapSelector.of(plan, "vlm", prefix.valid)
    rotation = gemma.rotary(prefix.positions, config.vlm.head_dim)
    bias = gemma.attention_bias(prefix.valid[:, :, None] & prefix.valid[:, None, :])

    def block(carry, layer: Params, slot: jax.Array | None):
        x, latents = carry
        projected = gemma.project(layer, config.vlm, x, rotation)
        x, taps = gemma.finish(layer, config.vlm, x, projected, projected.kv, bias)
        if select and slot is not None:
            latents = select.record(latents, taps, (slot,))
        return (x, latents), projected.kv

    def last(carry, layer: Params, slot: jax.Array | None):
        if slot is not None:
            return block(carry, layer, slot)
        return carry, gemma.project(layer, config.vlm, carry[0], rotation).kv

    layers, before = expert_layers(params, 0), config.vlm.depth - 1
    selected = select.plan.layers if select else ()
    block, last = (jax.checkpoint(each) if remat else each for each in (block, last))
    carry, cache = scan_tapped(block, (prefix.tokens, latents), layers, selected, range(before))
    (_, latents), end = scan_tapped(last, carry, layers, selected, range(before, before + 1))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *([cache, end] if before else [end])), latents


def _velocity(
    config: Pi0Config,
    context: Context,
    x_t: Float[Array, "B A a"],
    condition: Condition,
    latents: Latents,
    step: jax.Array | int | None,
    remat: bool = False,
) -> tuple[Float[Array, "B A a"], Latents]:
    """Runs the action expert once: the velocity at x_t, and the selected taps written at denoise slot `step`.

    Nothing is written where `step` is None.
    """
    params, plan = context.params, context.plan
    valid = jnp.ones(context.bias.shape[:2], bool)
    select = None if step is None else TapSelector.of(plan, "action", valid)
    x = embed_suffix(params, config, context.state, x_t, condition.embedding)

    def block(carry, entry, slot: jax.Array | None):
        x, latents = carry
        layer, cached, modulation = entry
        projected = gemma.project(layer, config.action, x, context.rotation, modulation)
        x, taps = gemma.finish(
            layer, config.action, x, projected, cached.append(projected.kv), context.bias, modulation
        )
        if select and step is not None and slot is not None:
            latents = select.record(latents, taps, (step, slot))
        return (x, latents), None

    block = jax.checkpoint(block) if remat else block
    stacked = (context.layers, context.cache, condition.blocks)
    (x, latents), _ = scan_tapped(block, (x, latents), stacked, select.plan.layers if select else ())
    out, _, _ = gemma.rms_norm(under(params, "PaliGemma/llm"), "final_norm_1", x, condition.final)
    v_t = linear(params, "action_out_proj", out[:, -config.action_horizon :])
    if plan and step is not None:
        flow = {name: value for name, value in (("x_t", x_t), ("v_t", v_t)) if name in plan.flow}
        latents = record(latents, "action", flow, (step,))
    return v_t, latents


def _condition(params: Params, config: Pi0Config, time: Float[Array, "Q b"]) -> Condition:
    embedding = embed_time(time, config.action.width)
    if not config.pi05:
        return Condition(embedding, None, None)
    cond, llm = time_condition(params, embedding), under(params, "PaliGemma/llm")
    layers = expert_layers(params, 1)
    norms = (gemma.modulate(layers, name, cond) for name in ("pre_attention_norm", "pre_ffw_norm"))
    return Condition(embedding, gemma.BlockModulation(*norms), gemma.modulate(llm, "final_norm_1", cond))
