"""Pi0 and Pi0.5: sampling an action chunk, the flow-matching loss, and a teacher-forced forward, each with capture taps.

B batch, S prefix tokens, T suffix tokens, D width, L layers, Q denoise steps, A action horizon, a action dims.

The vision-language expert runs once over the prefix and leaves keys and values; the action expert runs once a denoise
step over the suffix and attends to them. Time 1 is noise, time 0 is actions. Knows nothing of robots, files or servers.
Source: Black et al. 2024, "pi0: A Vision-Language-Action Flow Model for General Robot Control".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from vlascope_latents import FLOW_COMPONENTS, CapturePlan, CaptureSpec, plan_capture

from vlascope_server.model import gemma
from vlascope_server.model.config import Pi0Config
from vlascope_server.model.embed import (
    Prefix,
    embed_prefix,
    embed_suffix,
    embed_time,
    linear,
    suffix_blocks,
    time_condition,
)
from vlascope_server.model.observation import Observation, check_observation
from vlascope_server.model.parameters import Params, expert_layers, under
from vlascope_server.model.taps import Latents, TapSelector, join, scan_tapped


class Context(NamedTuple):
    """What the prefix leaves for the action expert."""

    cache: gemma.KeysValues
    """Of every layer, stacked on a leading L."""
    mask: Bool[Array, "B T S+T"]
    """Which of [prefix, suffix] each suffix token sees."""
    positions: Int[Array, "B T"]


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
    observation: Observation,
    noise: Float[Array, "B A a"],
    *,
    num_steps: int = 10,
    capture: CaptureSpec | None = None,
) -> tuple[Float[Array, "B A a"], Latents]:
    """Integrates the flow from noise (time 1) to actions (time 0) in `num_steps` Euler steps.

    Args:
        noise: float32 standard normal; the same noise and observation give the same actions.
        capture: what to keep of the hidden states; None keeps nothing and compiles the plain program.

    Returns:
        Normalised actions in float32, and the captured arrays by `<expert>/<component>`: the batch first, then the axes
        of `plan_capture(capture, config.layout(num_steps)).tensors`.

    Raises:
        ObservationError: an array of the observation does not fit `config`.
        CaptureSpecError: the spec asks for what the model does not have.
    """
    check_observation(observation, config)
    plan = None if capture is None else plan_capture(capture, config.layout(num_steps))
    context, latents = _read(params, config, observation, plan)
    dt = jnp.float32(-1.0 / num_steps)
    # accumulated in float32 as the reference does; 1 - k / num_steps differs in the last digits
    _, times = jax.lax.scan(lambda t, _: (t + dt, t), jnp.float32(1.0), length=num_steps)
    # no step's condition depends on another's, so that the weights behind them are read once
    conditions = _condition(params, config, times[:, None])
    select = TapSelector.of(plan, "action", jnp.ones(context.positions.shape, bool))

    def denoise(x_t: jax.Array, condition: Condition, tapped: bool):
        v_t, taps = _velocity(params, config, observation, context, x_t, condition, select if tapped else None)
        return x_t + dt * v_t, (None, taps | _flow_taps(plan if tapped else None, x_t, v_t))

    actions, _, taps = scan_tapped(denoise, noise, conditions, plan.denoise_steps if plan else ())
    return actions, latents | _batch_first("action", taps)


@functools.partial(jax.jit, static_argnames=("config", "capture"))
def velocity(
    params: Params,
    config: Pi0Config,
    observation: Observation,
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
    check_observation(observation, config)
    plan = None if capture is None else plan_capture(capture, config.layout(1))
    return _teacher_forced(params, config, observation, actions, noise, time, plan)


def flow_loss(
    params: Params,
    config: Pi0Config,
    observation: Observation,
    actions: Float[Array, "B A a"],
    noise: Float[Array, "B A a"],
    time: Float[Array, " B"],
) -> Float[Array, "B A"]:
    """Flow-matching loss, mean over action dims: |v(x_t, t) - (noise - actions)|^2. Differentiable in `params`."""
    check_observation(observation, config)
    predicted, _ = _teacher_forced(params, config, observation, actions, noise, time, None)
    return jnp.mean(jnp.square(predicted - (noise - actions)), axis=-1)


def draw_noise_and_time(
    key: jax.Array, batch_size: int, config: Pi0Config
) -> tuple[Float[Array, "B A a"], Float[Array, " B"]]:
    """The random inputs of one training step: standard normal noise, and times from Beta(1.5, 1) scaled into (0.001, 1]."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (batch_size, config.action_horizon, config.action_dim), jnp.float32)
    return noise, jax.random.beta(time_key, 1.5, 1.0, (batch_size,), jnp.float32) * 0.999 + 0.001


def _teacher_forced(
    params: Params,
    config: Pi0Config,
    observation: Observation,
    actions: jax.Array,
    noise: jax.Array,
    time: jax.Array,
    plan: CapturePlan | None,
) -> tuple[Float[Array, "B A a"], Latents]:
    context, latents = _read(params, config, observation, plan, differentiable=plan is None)
    select = TapSelector.of(plan, "action", jnp.ones(context.positions.shape, bool))
    x_t = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
    condition = jax.tree.map(lambda leaf: leaf[0], _condition(params, config, time[None]))
    v_t, taps = _velocity(params, config, observation, context, x_t, condition, select)
    one_step = jax.tree.map(lambda tap: tap[None], taps | _flow_taps(plan, x_t, v_t))
    return v_t, latents | _batch_first("action", one_step)


def _read(
    params: Params,
    config: Pi0Config,
    observation: Observation,
    plan: CapturePlan | None,
    *,
    differentiable: bool = False,
) -> tuple[Context, Latents]:
    """Runs the vision-language expert over the prefix."""
    prefix = embed_prefix(params, config, observation)
    select = TapSelector.of(plan, "vlm", prefix.valid)
    cache, taps = _run_vlm(params, config, prefix, select, differentiable)
    blocks = suffix_blocks(config)
    B, T = observation.batch_size, len(blocks)
    within = jnp.broadcast_to(blocks[None, :] <= blocks[:, None], (B, T, T))
    onto_prefix = jnp.broadcast_to(prefix.valid[:, None, :], (B, T, prefix.valid.shape[1]))
    positions = jnp.sum(prefix.valid, axis=1)[:, None] + jnp.arange(T)[None, :]
    context = Context(cache, jnp.concatenate([onto_prefix, within], axis=-1), positions)
    return context, _batch_first("vlm", taps)


def _run_vlm(
    params: Params, config: Pi0Config, prefix: Prefix, select: TapSelector | None, differentiable: bool
) -> tuple[gemma.KeysValues, gemma.Taps]:
    """Keys and values of every layer, and the selected taps.

    Of the last block nobody needs more than its keys and values, so the rest of it runs only where it is captured. With
    `differentiable` all blocks are alike, since the gradient of one plain scan over the stack is the cheaper one.
    """
    layers, last = expert_layers(params, 0), config.vlm.depth - 1
    mask = prefix.valid[:, :, None] & prefix.valid[:, None, :]
    selected = select.plan.layers if select else ()

    def block(x: jax.Array, layer: Params, tapped: bool):
        projected = gemma.project(layer, config.vlm, x, prefix.positions)
        x, taps = gemma.finish(layer, config.vlm, x, projected, projected.kv, mask)
        return x, (projected.kv, select.keep(taps) if select and tapped else {})

    if differentiable:
        _, cache, _ = scan_tapped(block, prefix.tokens, layers, ())
        return cache, {}
    x, cache, taps = scan_tapped(block, prefix.tokens, layers, selected, stop=last)
    layer = {name: stacked[last] for name, stacked in layers.items()}
    projected = gemma.project(layer, config.vlm, x, prefix.positions)
    if select and last in selected:
        _, last_taps = gemma.finish(layer, config.vlm, x, projected, projected.kv, mask)
        taps = join([taps, _stack_one(select.keep(last_taps))])
    return join([cache, _stack_one(projected.kv)]), taps


def _velocity(
    params: Params,
    config: Pi0Config,
    observation: Observation,
    context: Context,
    x_t: Float[Array, "B A a"],
    condition: Condition,
    select: TapSelector | None,
) -> tuple[Float[Array, "B A a"], gemma.Taps]:
    """Runs the action expert once: the velocity at x_t, and the selected taps with a leading L."""
    x = embed_suffix(params, config, observation.state, x_t, condition.embedding)

    def block(x: jax.Array, entry, tapped: bool):
        layer, cached, modulation = entry
        projected = gemma.project(layer, config.action, x, context.positions, modulation)
        kv = gemma.KeysValues(*(jnp.concatenate(pair, axis=1) for pair in zip(cached, projected.kv, strict=True)))
        x, taps = gemma.finish(layer, config.action, x, projected, kv, context.mask, modulation)
        return x, (None, select.keep(taps) if select and tapped else {})

    stacked = (expert_layers(params, 1), context.cache, condition.blocks)
    x, _, taps = scan_tapped(block, x, stacked, select.plan.layers if select else ())
    out, _, _ = gemma.rms_norm(under(params, "PaliGemma/llm"), "final_norm_1", x, condition.final)
    return linear(params, "action_out_proj", out[:, -config.action_horizon :]), taps


def _condition(params: Params, config: Pi0Config, time: Float[Array, "Q b"]) -> Condition:
    embedding = embed_time(time, config.action.width)
    if not config.pi05:
        return Condition(embedding, None, None)
    cond, llm = time_condition(params, embedding), under(params, "PaliGemma/llm")
    layers = expert_layers(params, 1)
    norms = (gemma.modulate(layers, name, cond) for name in ("pre_attention_norm", "pre_ffw_norm"))
    return Condition(embedding, gemma.BlockModulation(*norms), gemma.modulate(llm, "final_norm_1", cond))


def _flow_taps(plan: CapturePlan | None, x_t: jax.Array, v_t: jax.Array) -> gemma.Taps:
    return {name: value for name, value in (("x_t", x_t), ("v_t", v_t)) if plan and name in plan.flow}


def _batch_first(expert: str, taps: gemma.Taps) -> Latents:
    """Names the stacked taps, and moves the batch axis to the front from behind denoise step and layer."""
    lead = {"vlm": 1, "action": 2}[expert]
    axis = {name: 1 if name in FLOW_COMPONENTS else lead for name in taps}
    return {f"{expert}/{name}": jnp.moveaxis(tap, axis[name], 0) for name, tap in taps.items()}


def _stack_one(tree):
    return jax.tree.map(lambda leaf: leaf[None], tree)
