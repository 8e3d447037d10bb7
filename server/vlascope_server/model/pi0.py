"""Pi0 and Pi0.5: sampling an action chunk, the flow-matching loss, and a teacher-forced forward, each with sites.

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
from jaxtyping import Array, Bool, Float
from vlascope_latents import CapturePlan, CaptureSpec, CaptureSpecError, plan_capture

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
from vlascope_server.model.sites import ExpertSites, Latents, Site, Sites


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
    """

    params: Params
    layers: Params
    state: Float[Array, "B a"]
    cache: gemma.KeysValues
    bias: Float[Array, "B T K"]
    rotation: gemma.Rotation

    @property
    def valid(self) -> Bool[Array, "B T"]:
        """Which suffix tokens are real: all of them."""
        return jnp.ones(self.bias.shape[:2], bool)


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
    capture: CaptureSpec | CapturePlan | None = None,
) -> tuple[Float[Array, "B A a"], Latents]:
    """Integrates the flow from noise (time 1) to actions (time 0) in `num_steps` Euler steps.

    Args:
        params: as a checkpoint holds them, or after `fuse_for_inference`.
        noise: float32 standard normal; the same noise and inputs give the same actions.
        capture: what to keep of the hidden states, or a plan of that; None keeps nothing and compiles the plain program.

    Returns:
        Normalised actions in float32, and the captured arrays by `<expert>/<component>`: the batch first, then the axes
        of `plan_capture(capture, config.layout(num_steps)).tensors`.

    Raises:
        ModelInputsError: an array of the inputs does not fit `config`.
        CaptureSpecError: the spec asks for what the model does not have.
    """
    check_inputs(inputs, config)
    params = fuse_for_inference(params)
    sites = Sites(_planned(capture, config, num_steps), inputs.batch_size)
    context = _read(params, config, inputs, sites)
    dt = jnp.float32(-1.0 / num_steps)
    # no step's condition depends on another's, so that the weights behind them are read once
    conditions = _condition(params, config, flow_times(num_steps)[:, None])

    def denoise(x_t, condition: Condition, sites: ExpertSites):
        return x_t + dt * _velocity(config, context, x_t, condition, sites), None

    actions, _ = sites.expert("action", context.valid).scan("steps", denoise, noise, conditions)
    return actions, sites.finished()


@functools.partial(jax.jit, static_argnames=("config", "capture"))
def velocity(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: Float[Array, "B A a"],
    noise: Float[Array, "B A a"],
    time: Float[Array, " B"],
    *,
    capture: CaptureSpec | CapturePlan | None = None,
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
    sites = Sites(_planned(capture, config, 1), inputs.batch_size)
    v_t = _teacher_forced(params, config, inputs, Draws(noise, time), actions, sites)
    return v_t, sites.finished()


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
    sites = Sites(None, inputs.batch_size)
    predicted = _teacher_forced(params, config, inputs, Draws(noise, time), actions, sites)
    return jnp.mean(jnp.square(predicted - (noise - actions)), axis=-1)


def flow_errors(
    params: Params,
    config: Pi0Config,
    inputs: ModelInputs,
    actions: Float[Array, "B A a"],
    draws: Draws,
    *,
    capture: CaptureSpec | CapturePlan | None = None,
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

    Raises:
        CaptureSpecError: the spec asks for what the vlm does not have.
    """
    check_inputs(inputs, config)
    params = fuse_for_inference(params)
    plan = _planned(capture, config, 1)
    if plan and plan.of("action"):
        raise CaptureSpecError(
            "experts", "several draws share one pass over the prefix, and only that can be kept", ["vlm"]
        )
    sites = Sites(plan, inputs.batch_size)
    context = _read(params, config, inputs, sites, remat)
    nothing = Sites(None, inputs.batch_size).expert("action", context.valid)
    noise, time = draws
    share = time[..., None, None]

    def predict(x_t: jax.Array, condition: Condition) -> jax.Array:
        return _velocity(config, context, x_t, condition, nothing, remat)

    x_t = share * noise + (1 - share) * actions
    predicted = jax.vmap(predict)(x_t, _condition(params, config, time))
    return jnp.square(predicted - (noise - actions)), sites.finished()


def draw_noise_and_time(key: jax.Array, batch_size: int, config: Pi0Config) -> Draws:
    """The random inputs of one training step: standard normal noise, and times from Beta(1.5, 1) scaled into (0.001, 1]."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (batch_size, config.action_horizon, config.action_dim), jnp.float32)
    return Draws(noise, jax.random.beta(time_key, 1.5, 1.0, (batch_size,), jnp.float32) * 0.999 + 0.001)


def _planned(capture: CaptureSpec | CapturePlan | None, config: Pi0Config, num_steps: int) -> CapturePlan | None:
    return plan_capture(capture, config.layout(num_steps)) if isinstance(capture, CaptureSpec) else capture


def _teacher_forced(
    params: Params, config: Pi0Config, inputs: ModelInputs, draws: Draws, actions: Float[Array, "B A a"], sites: Sites
) -> Float[Array, "B A a"]:
    """The velocity at one point of the flow, which is step 0 to the sites."""
    params = fuse_for_inference(params)
    context = _read(params, config, inputs, sites)
    share = draws.time[:, None, None]
    condition = jax.tree.map(lambda leaf: leaf[0], _condition(params, config, draws.time[None]))
    x_t = share * draws.noise + (1 - share) * actions
    return _velocity(config, context, x_t, condition, sites.expert("action", context.valid).at("steps", 0))


def _read(params: Params, config: Pi0Config, inputs: ModelInputs, sites: Sites, remat: bool = False) -> Context:
    """Runs the vision-language expert over the prefix."""
    prefix = embed_prefix(params, config, inputs)
    cache = _run_vlm(params, config, prefix, sites.expert("vlm", prefix.valid), remat)
    positions, mask = suffix_attention(config, prefix.valid)
    rotation = gemma.rotary(positions, config.action.head_dim)
    return Context(params, expert_layers(params, 1), inputs.state, cache, gemma.attention_bias(mask), rotation)


def _run_vlm(params: Params, config: Pi0Config, prefix: Prefix, sites: ExpertSites, remat: bool) -> gemma.KeysValues:
    """Keys and values of every layer.

    Keys and values are projected from a block's input, so that what the last block writes into the stream reaches no action:
    it is computed where it is captured, and nowhere else.
    """
    rotation = gemma.rotary(prefix.positions, config.vlm.head_dim)
    bias = gemma.attention_bias(prefix.valid[:, :, None] & prefix.valid[:, None, :])

    def block(x, layer: Params, site: Site):
        projected = gemma.project(layer, config.vlm, x, rotation, site)
        return gemma.finish(layer, config.vlm, x, projected, projected.kv, bias, site), projected.kv

    def last(x, layer: Params, site: Site):
        if set(site.names) <= gemma.PROJECTED and "final_hidden" not in sites.names:
            return x, gemma.project(layer, config.vlm, x, rotation, site).kv
        return block(x, layer, site)

    layers, before = expert_layers(params, 0), config.vlm.depth - 1
    x = sites("embedding", prefix.tokens)
    x, cache = sites.scan("layers", block, x, layers, within=range(before), remat=remat)
    x, end = sites.scan("layers", last, x, layers, within=range(before, before + 1), remat=remat)
    if "final_hidden" in sites.names:
        sites("final_hidden", gemma.rms_norm(under(params, "PaliGemma/llm"), "final_norm", x)[0])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *([cache, end] if before else [end]))


def _velocity(
    config: Pi0Config,
    context: Context,
    x_t: Float[Array, "B A a"],
    condition: Condition,
    sites: ExpertSites,
    remat: bool = False,
) -> Float[Array, "B A a"]:
    """Runs the action expert once: the velocity at x_t."""
    params = context.params
    x_t = sites("x_t", x_t)
    x = sites("embedding", embed_suffix(params, config, context.state, x_t, condition.embedding))

    def block(x, entry, site: Site):
        layer, cached, modulation = entry
        projected = gemma.project(layer, config.action, x, context.rotation, site, modulation)
        kv = cached.append(projected.kv)
        return gemma.finish(layer, config.action, x, projected, kv, context.bias, site, modulation), None

    stacked = (context.layers, context.cache, condition.blocks)
    x, _ = sites.scan("layers", block, x, stacked, remat=remat)
    out = gemma.rms_norm(under(params, "PaliGemma/llm"), "final_norm_1", x, condition.final)[0]
    out = sites("final_hidden", out)[:, -config.action_horizon :]
    return sites("v_t", linear(params, "action_out_proj", out))


def _condition(params: Params, config: Pi0Config, time: Float[Array, "Q b"]) -> Condition:
    embedding = embed_time(time, config.action.width)
    if not config.pi05:
        return Condition(embedding, None, None)
    cond, llm = time_condition(params, embedding), under(params, "PaliGemma/llm")
    layers = expert_layers(params, 1)
    norms = (gemma.modulate(layers, name, cond) for name in ("pre_attention_norm", "pre_ffw_norm"))
    return Condition(embedding, gemma.BlockModulation(*norms), gemma.modulate(llm, "final_norm_1", cond))
