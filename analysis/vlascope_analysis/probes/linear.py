"""A linear map trained with Adam on a cosine loss, with early stopping; many maps at once, that differ in labels alone.

Maps for permuted labels are trained by the same program as the map for the true ones, so that the baseline is the same
probe in every respect.

Axis letters: R maps, N frames, D features, E label width, C classes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, Int
from vlascope_base.progress import Progress, silent

from vlascope_analysis.options import TrainingConfig

MIN_IMPROVEMENT = 1e-4
"""A validation loss, which is between 0 and 2, is a better one where it is lower by at least this much."""


@dataclasses.dataclass(frozen=True)
class TrainedProbes:
    """Maps, each as it was at its best epoch.

    Attributes:
        kernel: float32 [R, D, E].
        bias: float32 [R, E].
        epochs: int [R] the best epoch of each, from 1.
        history: of the first map, one row an epoch: epoch, train_loss, validation_loss (NaN without a validation part).
    """

    kernel: np.ndarray
    bias: np.ndarray
    epochs: np.ndarray
    history: pd.DataFrame

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicted embeddings: [N, D] to float32 [R, N, E]."""
        return np.asarray(x, np.float32) @ self.kernel + self.bias[:, None]


class Part(NamedTuple):
    """Frames to train on, or to decide when to stop.

    Attributes:
        x: float32 [N, D], standardised.
        labels: int [R, N] the class of each frame.
        weights: float32 [R, N] how much each frame counts.
    """

    x: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class _Part(NamedTuple):
    """Frames, filled up to whole batches with frames that do not count."""

    x: Float[Array, "N D"]
    labels: Int[Array, "R N"]
    weights: Float[Array, "R N"]
    filling: Float[Array, " N"]


class _State(NamedTuple):
    params: dict[str, Array]
    optimiser: optax.OptState
    best: dict[str, Array]
    best_loss: Float[Array, " R"]
    best_epoch: Int[Array, " R"]


def train_probes(
    train: Part,
    validation: Part,
    embeddings: np.ndarray,
    config: TrainingConfig,
    seed: int,
    progress: Progress = silent,
) -> TrainedProbes:
    """Trains R maps.

    Args:
        train: what to fit.
        validation: what says when to stop; where it has no frame, every epoch is run and the last map kept.
        embeddings: float32 [C, E] of length 1.
        config: how.
        seed: of the order of frames.
        progress: called after every epoch.

    The loss is 1 - cosine(x·kernel + bias, embedding of the class), averaged over frames by their weights.

    Raises:
        AnalysisError: `config` cannot be used.
    """
    config.check()
    # whole batches, and frames of weight 0 behind: folds of nearly one size share a program
    part = _filled(train, config.batch_size)
    held = _filled(validation, config.batch_size) if len(validation.x) else None
    targets = jnp.asarray(embeddings, jnp.float32)
    R, D, E = train.labels.shape[0], train.x.shape[1], targets.shape[1]
    shares = train.weights / train.weights.sum(axis=1, keepdims=True)
    constant = np.einsum("RN,RNE->RE", shares, embeddings[train.labels])
    # from the best constant answer: where there are more features than frames, directions that no training frame has
    # would keep random first values, and add noise to every answer
    params = {"kernel": jnp.zeros((R, D, E), jnp.float32), "bias": jnp.asarray(constant, jnp.float32)}
    state = _State(
        params,
        _adam(config).init(params),
        jax.tree.map(jnp.zeros_like, params),  # the first epoch is the best so far
        jnp.full(R, jnp.inf, jnp.float32),
        jnp.zeros(R, jnp.int32),
    )
    rows = []
    for epoch in range(1, config.num_epochs + 1):
        state, loss, held_loss = _epoch(state, part, held, targets, np.int32(epoch), config, seed)
        rows.append((epoch, float(loss[0]), float(held_loss[0])))
        progress("training", epoch, config.num_epochs)
        if held is not None and bool((epoch - np.asarray(state.best_epoch) >= config.patient_epochs).all()):
            break
    history = pd.DataFrame(rows, columns=["epoch", "train_loss", "validation_loss"])
    kernel, bias = np.asarray(state.best["kernel"]), np.asarray(state.best["bias"])
    return TrainedProbes(kernel, bias, np.asarray(state.best_epoch), history)


@functools.partial(jax.jit, static_argnames=("config", "seed"), donate_argnames="state")
def _epoch(
    state: _State, part: _Part, held: _Part | None, targets: Array, epoch: Array, config: TrainingConfig, seed: int
) -> tuple[_State, Array, Array]:
    """One pass over the frames in a new order; returns the state, the training loss and the validation loss [R]."""
    size = config.batch_size
    # frames of weight 0 sort behind the others
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    order = jnp.argsort(jax.random.uniform(key, part.filling.shape) + 2 * part.filling)
    adam = _adam(config)

    def step(
        carry: tuple[dict[str, Array], optax.OptState], batch: tuple[Array, Array]
    ) -> tuple[tuple[dict[str, Array], optax.OptState], Array]:
        params, optimiser = carry
        frames, weight = batch

        def total(params: dict[str, Array]) -> tuple[Array, Array]:
            losses = _losses(params, part.x[frames], part.labels[:, frames], targets)
            losses = (losses * weight).sum(axis=1) / weight.sum(axis=1)
            return losses.sum(), losses  # maps share no parameters: the gradient of the sum is that of each

        (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(params)
        updates: Any
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of the integer step
            updates, optimiser = adam.update(gradient, optimiser)
        params = {name: value + updates[name] for name, value in params.items()}
        return (params, optimiser), losses * weight.sum(axis=1)

    maps = part.labels.shape[0]
    batches = order.reshape(-1, size)
    inputs = (batches, jnp.moveaxis(part.weights[:, batches], 0, 1))
    params: dict[str, Array]
    (params, optimiser), losses = jax.lax.scan(step, (state.params, state.optimiser), inputs)
    if held is None:
        held_loss, better = jnp.full(maps, jnp.nan, jnp.float32), jnp.ones(maps, bool)
    else:
        losses_held = _losses(params, held.x, held.labels, targets) * held.weights
        held_loss = losses_held.sum(axis=1) / held.weights.sum(axis=1)
        going = epoch - state.best_epoch <= config.patient_epochs
        better = going & (held_loss < state.best_loss - MIN_IMPROVEMENT)
    best = {
        name: jnp.where(better.reshape(-1, *[1] * (value.ndim - 1)), value, state.best[name])
        for name, value in params.items()
    }
    state = _State(
        params,
        optimiser,
        best,
        jnp.where(better, held_loss, state.best_loss),
        jnp.where(better, epoch, state.best_epoch),
    )
    return state, losses.sum(axis=0) / part.weights.sum(axis=1), held_loss


def _adam(config: TrainingConfig) -> optax.GradientTransformation:
    # From the best constant answer the first gradient of the bias is zero but for rounding. The usual 1e-8 would make a
    # whole step of it, in a direction that means nothing.
    return optax.adam(config.learning_rate, eps=1e-5)


def _losses(params: dict[str, Array], x: Array, labels: Array, targets: Array) -> Float[Array, "R N"]:
    predicted = jnp.einsum("ND,RDE->RNE", x, params["kernel"]) + params["bias"][:, None]
    length = jnp.sqrt((predicted**2).sum(axis=-1) + np.float32(1e-12))  # the root alone has no gradient at 0
    return 1 - (predicted * targets[labels]).sum(axis=-1) / length


def _filled(part: Part, size: int) -> _Part:
    N = len(part.x)
    extra = -N % size
    return _Part(
        jnp.asarray(np.pad(np.asarray(part.x, np.float32), ((0, extra), (0, 0)))),
        jnp.asarray(np.pad(np.asarray(part.labels, np.int32), ((0, 0), (0, extra)))),
        # of a mean of 1, so that a loss keeps its scale whatever the weights' own
        jnp.asarray(np.pad(np.asarray(part.weights / part.weights.mean(), np.float32), ((0, 0), (0, extra)))),
        jnp.asarray(np.pad(np.zeros(N, np.float32), (0, extra), constant_values=1)),
    )
