"""One step of training: loss, gradients, optimiser, averaged weights.

B batch, K draws of noise and time on each observation, A action horizon, a the model's action width, Q questions of grounding.

An action dimension that carries nothing (padding, or constant in the data) is left out where the model cannot see it: weights
that were drawn have its row of `action_in_proj` set to zero, and a small model then spends nothing on passing its noise on.
Where a loaded checkpoint sees such dimensions they stay in the loss, as in the reference.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from vlascope_latents import CaptureSpec

from vlascope_server.model import Draws, Params, Pi0Config, draw_noise_and_time, flow_errors
from vlascope_server.model.sites import Latents
from vlascope_server.training.augment import augment_images
from vlascope_server.training.grounding import Places, capture_of, locate, seen
from vlascope_server.training.loader import Batch
from vlascope_server.training.options import TrainOptions
from vlascope_server.training.train_state import TrainState

T = TypeVar("T")

_IN, _OUT = "action_in_proj/kernel", ("action_out_proj/kernel", "action_out_proj/bias")
_UNDECAYED = ("bias", "scale", "pos_embedding")
_GROUNDED = "flow_loss", "grounding_loss", "located", "place_located"
_BETAS = 0.9, 0.95
"""Of Adam; the reference's."""


Metrics = dict[str, Any]
"""Scalars by name: arrays of the device inside a step, numbers of the host outside of it."""


class Errors(NamedTuple):
    """Sums over a batch."""

    flow: Float[Array, ""]
    """Flow-matching errors of the actions that count, each the mean over counted dimensions."""
    places: Places | None
    """None where they are not asked for."""


class Counts(NamedTuple):
    """What the sums are over."""

    actions: Float[Array, ""]
    places: Float[Array, " Q"]


StepFunction = Callable[[TrainState, Params, Batch, ArrayLike, ArrayLike], tuple[TrainState, Metrics]]


def blind_to(params: Mapping[str, jax.Array], carrying: Bool[np.ndarray, " a"]) -> dict[str, jax.Array]:
    """Drawn parameters that neither see nor move the action dimensions that carry nothing."""
    keep = jnp.asarray(carrying, jnp.float32)
    return {**params, _IN: params[_IN] * keep[:, None], **{name: params[name] * keep for name in _OUT}}


def counted_dimensions(params: Mapping[str, jax.Array], carrying: Bool[np.ndarray, " a"]) -> tuple[bool, ...]:
    """The action dimensions in the loss: those that carry something, and those that the model sees."""
    return tuple((carrying | np.asarray(params[_IN]).any(axis=1)).tolist())


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The options that a step is compiled for; as `TrainOptions` has them."""

    flow_samples: int
    grounding: float
    accumulate: int
    weight_decay: float
    clip: float
    ema: float
    augment: bool
    shift: float
    seed: int

    @classmethod
    def of(cls, options: TrainOptions) -> Recipe:
        """Those of a run."""
        return cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})


def make_optimiser(options: Recipe) -> optax.GradientTransformation:
    """AdamW with clipping, but for the learning rate, which a step is given."""

    def decayed(params: Mapping[str, jax.Array]) -> dict[str, bool]:
        return {name: name.rsplit("/", 1)[-1] not in _UNDECAYED for name in params}

    return optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.scale_by_adam(*_BETAS),
        optax.add_decayed_weights(options.weight_decay, mask=decayed),
    )


def learning_rate(options: TrainOptions, peak: float, step: int, steps: int | None) -> float:
    """Linear from 0 to the peak over the warm-up, then a cosine to `final_share` of it at `steps`; steps count from 0."""
    if step < options.warmup:
        return peak * (step + 1) / options.warmup
    if steps is None or steps <= options.warmup:
        return peak
    share = min(1.0, (step - options.warmup) / (steps - options.warmup))
    return peak * (options.final_share + (1 - options.final_share) * 0.5 * (1 + np.cos(np.pi * share)))


@functools.cache
def make_step(config: Pi0Config, counted: tuple[bool, ...], recipe: Recipe, *, remat: bool) -> StepFunction:
    """The compiled step, one a process for the same arguments.

    Returns:
        `step(state, frozen, batch, number, learning_rate)` -> the next state (the given one is used up), and `loss` and
        `grad_norm` of this step. `frozen` are the parameters that are not trained; `number` counts steps from 0, and with
        the seed it decides everything that is drawn. `loss` is what is minimised: with grounding, `flow_loss` plus its
        weight times `grounding_loss`.
    """
    optimiser = make_optimiser(recipe)

    def step(state: TrainState, frozen: Params, batch: Batch, number: jax.Array, rate: jax.Array):
        image_key, flow_key = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), number))
        if recipe.augment:
            images, moves = augment_images(image_key, dict(batch.inputs.images), recipe.shift)
            moved = jnp.stack([moves[camera] for camera in config.cameras], axis=1)
            # a place that is not seen is not to be moved into the picture
            targets = jnp.where(seen(batch.targets)[..., None], batch.targets - moved[:, None], -1.0)
            batch = batch._replace(inputs=dataclasses.replace(batch.inputs, images=images), targets=targets)
        actions, places = (jnp.maximum(total, 1.0) for total in count(batch, recipe.flow_samples))

        def loss_of(params: dict[str, jax.Array], part: Batch, draws: Draws) -> tuple[Any, Metrics]:
            params = {**frozen, **params}
            errors = summed_errors(params, config, part, draws, counted, remat=remat, grounding=recipe.grounding > 0)
            metrics = metrics_of(errors, Counts(actions, places), recipe.grounding)
            return metrics["loss"], metrics

        def add(sums: Any, part: tuple[Batch, Draws]) -> tuple[Any, None]:
            (_, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, *part)
            return jax.tree.map(jnp.add, sums, (metrics, gradients)), None

        nothing = (
            dict.fromkeys(metric_names(recipe.grounding, batch.targets.shape[1]), jnp.float32(0)),
            jax.tree.map(jnp.zeros_like, state.params),
        )
        parts = _in_parts((batch, draw(flow_key, len(batch.actions), recipe.flow_samples, config)), recipe.accumulate)
        (metrics, gradients), _ = jax.lax.scan(add, nothing, parts)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax takes both for granted
            updates, optimiser_state = optimiser.update(gradients, state.optimiser, state.params)
            norm = optax.tree.norm(gradients)
        params = jax.tree.map(lambda value, update: value - rate * update, state.params, updates)
        # an average over few steps would mostly be the weights that training began with
        taken = number.astype(jnp.float32)
        decay = jnp.minimum(recipe.ema, (1.0 + taken) / (10.0 + taken))
        average = {name: decay * value + (1 - decay) * params[name] for name, value in state.average.items()}
        return TrainState(params, average, optimiser_state), metrics | {"grad_norm": norm}

    return jax.jit(step, donate_argnums=0)


@functools.cache
def make_evaluation(config: Pi0Config, counted: tuple[bool, ...], draws: int, *, grounding: bool):
    """`evaluate(params, batch, number)` -> `Errors` and `Counts` of a batch that is not augmented; compiled.

    The draws follow from `number`, not from the training step, so that two evaluations differ by their weights alone.
    """

    def evaluate(params: Params, batch: Batch, number: jax.Array) -> tuple[Errors, Counts]:
        key = jax.random.fold_in(jax.random.key(0), number)
        drawn = draw(key, len(batch.actions), draws, config)
        errors = summed_errors(params, config, batch, drawn, counted, remat=False, grounding=grounding)
        return errors, count(batch, draws)

    return jax.jit(evaluate)


def draw(key: jax.Array, batch_size: int, draws: int, config: Pi0Config) -> Draws:
    """Noise [B K A a] and times [B K] for K draws on each observation."""
    noise, time = draw_noise_and_time(key, draws * batch_size, config)
    return Draws(noise.reshape(batch_size, draws, *noise.shape[1:]), time.reshape(batch_size, draws))


def _in_parts(tree: T, parts: int) -> T:
    """B rows as `parts` times B/parts. Every part takes some of each device's rows, so that none has to move."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(len(x) // parts, parts, *x.shape[1:]), 0, 1), tree)


def metric_names(grounding: float, questions: int) -> tuple[str, ...]:
    """What `metrics_of` gives, with so many of the questions where something is."""
    return "loss", *(_GROUNDED[: 2 + questions] if grounding else ())


def metrics_of(errors: Errors, counts: Counts, grounding: float) -> Metrics:
    """`loss`, which is minimised; where it has two parts, each, and the shares of objects and places that were found."""
    flow = errors.flow / counts.actions
    if errors.places is None:
        return {"loss": flow}
    where = (errors.places.loss / counts.places).sum()
    found = errors.places.found / counts.places
    return dict(zip(metric_names(grounding, len(found)), (flow + grounding * where, flow, where, *found), strict=True))


def count(batch: Batch, draws: int) -> Counts:
    """What the errors of a batch are summed over."""
    actions = draws * jnp.sum(batch.mask.astype(jnp.float32))
    return Counts(actions, jnp.sum(seen(batch.targets).astype(jnp.float32), axis=(0, 2)))


def summed_errors(
    params: Params,
    config: Pi0Config,
    batch: Batch,
    draws: Draws,
    counted: tuple[bool, ...],
    *,
    remat: bool,
    grounding: bool,
) -> Errors:
    """Errors of a batch; with `grounding`, also those of where the told object, and its place, are seen."""
    capture = capture_of(config) if grounding else None
    per_action, latents = action_errors(params, config, batch, draws, counted, capture=capture, remat=remat)
    return Errors(jnp.sum(per_action), locate(params, config, latents, batch.targets) if grounding else None)


def action_errors(
    params: Params,
    config: Pi0Config,
    batch: Batch,
    draws: Draws,
    counted: tuple[bool, ...],
    *,
    capture: CaptureSpec | None = None,
    remat: bool = False,
) -> tuple[Float[Array, "K B A"], Latents]:
    """Flow-matching error of each action, the mean over counted dimensions; 0 where an action does not count.

    Args:
        draws: noise [B K A a] and times [B K].
        capture: as for `flow_errors`, whose captured arrays are returned too.
    """
    visible = jnp.asarray(counted, jnp.float32)
    # noise in a dimension that is left out must not teach the model to see it
    blind = {**params, _IN: params[_IN] * visible[:, None].astype(params[_IN].dtype)}
    draws_first = Draws(*(jnp.swapaxes(x, 0, 1) for x in draws))
    errors, latents = flow_errors(blind, config, batch.inputs, batch.actions, draws_first, capture=capture, remat=remat)
    per_action = jnp.sum(errors * visible, axis=-1) / jnp.sum(visible)
    # a masked action is cut out, not multiplied by zero: its label may be anything
    return jnp.where(batch.mask, per_action, 0.0), latents
