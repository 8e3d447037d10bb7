"""Ridge regression to label embeddings in closed form, for many cells (layers, denoise steps) in one compiled program.

With labels among C embeddings G, the fitted map's answer to any frame is a
mixture M of them (weights that sum to 1, some negative), and cosines follow from M and G Gᵀ; so the solver carries C numbers
a frame and not the embedding's width, and label permutations cost next to nothing: they share the factors.

Axis letters: B cells, R labellings (the true one, then permutations), N frames, D features, C tasks, K penalties.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vlascope_analysis.probes.standardise import FLOOR

PENALTIES = tuple(float(10.0**power) for power in range(-3, 4))
"""Ridge penalties, as multiples of the mean eigenvalue of the training part's Gram matrix."""


class _Parts(NamedTuple):
    """Frame numbers of each part."""

    train: Int[Array, " train"]
    validation: Int[Array, " validation"]
    test: Int[Array, " test"]


def ridge_cells(
    features: np.ndarray, labels: np.ndarray, embeddings: np.ndarray, parts: Mapping[str, np.ndarray],
    candidates: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Fits every cell and labelling on the training part, chooses the penalty on validation, and answers the test part.

    Features are standardised by the training part of each cell. The penalty of greatest mean cosine on the validation part
    is taken, for each cell and labelling; without one, a penalty of the mean eigenvalue.

    Args:
        features: float32 [B, N, D].
        labels: int [R, N].
        embeddings: float32 [C, E] of length 1.
        parts: frame numbers of `train`, `validation`, `test`.
        candidates: bool [C] tasks that an answer may be.

    Returns:
        `predicted` int32 [B, R, test], `cosine` float32 [B, R, test] to the label that frame has in that labelling, `penalty`
        float32 [B, R].
    """
    with jax.default_matmul_precision("highest"):
        found = _cells(
            jnp.asarray(features),
            jnp.asarray(labels, jnp.int32),
            jnp.asarray(embeddings @ embeddings.T, jnp.float32),
            _Parts(*(jnp.asarray(parts[name], jnp.int32) for name in _Parts._fields)),
            jnp.asarray(candidates),
        )
    return {name: np.asarray(value) for name, value in found.items()}


@jax.jit
def _cells(
    features: Float[Array, "B N D"], labels: Int[Array, "R N"], similarity: Float[Array, "C C"], parts: _Parts,
    candidates: Bool[Array, " C"],
) -> dict[str, Array]:  # fmt: skip
    return jax.lax.map(lambda x: _cell(x, labels, similarity, parts, candidates), features)


def _cell(
    x: Float[Array, "N D"], labels: Int[Array, "R N"], similarity: Float[Array, "C C"], parts: _Parts,
    candidates: Bool[Array, " C"],
) -> dict[str, Array]:  # fmt: skip
    train, validation, test = parts
    C, R = similarity.shape[0], labels.shape[0]
    fitted, held, asked = _standardised(x, parts)
    onehot = jax.nn.one_hot(labels[:, train], C, dtype=jnp.float32)  # R n C
    mean = onehot.mean(axis=1, keepdims=True)
    centred = jnp.moveaxis(onehot - mean, 1, 0).reshape(len(train), R * C)
    n, D = fitted.shape
    # the smaller of the two Gram matrices: answers are  cross(x) · (gram + λ)⁻¹ · target  in both forms
    if n <= D:
        gram, target, held, asked = fitted @ fitted.T, centred, held @ fitted.T, asked @ fitted.T
    else:
        gram, target = fitted.T @ fitted, fitted.T @ centred
    size = gram.shape[0]
    scale = jnp.trace(gram) / size
    # for each penalty a Cholesky factor: seven of them cost a fraction of one eigendecomposition
    penalties = jnp.asarray(PENALTIES if len(validation) else (1.0,), jnp.float32)

    def answers(penalty: Float[Array, ""]) -> tuple[Array, Array, Array]:
        factor = jax.scipy.linalg.cho_factor(gram + penalty * scale * jnp.eye(size, dtype=jnp.float32), lower=True)
        weights = jax.scipy.linalg.cho_solve(factor, target)

        def mixtures(cross: Float[Array, "n size"]) -> Float[Array, "R n C"]:
            return jnp.moveaxis((cross @ weights).reshape(-1, R, C), 1, 0) + mean

        score = _cosine(mixtures(held), similarity, labels[:, validation])[1].mean(axis=1)
        similarities, cosine = _cosine(mixtures(asked), similarity, labels[:, test])
        predicted = jnp.argmax(jnp.where(candidates, similarities, -jnp.inf), axis=-1).astype(jnp.int32)
        return score, predicted, cosine

    score, predicted, cosine = jax.lax.map(answers, penalties)
    best = jnp.argmax(score, axis=0) if len(validation) else jnp.zeros(R, jnp.int32)
    chosen = (best, jnp.arange(R))
    return {"predicted": predicted[chosen], "cosine": cosine[chosen], "penalty": penalties[best]}


def _standardised(x: Float[Array, "N D"], parts: _Parts) -> tuple[Array, Array, Array]:
    """The parts, with mean 0 and deviation 1 in the training part."""
    fitted = x[parts.train]
    mean = fitted.mean(axis=0)
    deviation = jnp.sqrt(((fitted - mean) ** 2).mean(axis=0))
    scale = jnp.maximum(deviation, jnp.maximum(np.float32(FLOOR) * deviation.max(), np.float32(1e-30)))
    return (fitted - mean) / scale, (x[parts.validation] - mean) / scale, (x[parts.test] - mean) / scale


def _cosine(
    mixture: Float[Array, "R n C"], similarity: Float[Array, "C C"], labels: Int[Array, "R n"]
) -> tuple[Float[Array, "R n C"], Float[Array, "R n"]]:
    """Cosines of mixtures to every task [R, n, C], and to the labelled one [R, n]."""
    products = mixture @ similarity
    squared = (products * mixture).sum(axis=-1, keepdims=True)
    similarities = products / jnp.sqrt(jnp.maximum(squared, np.float32(1e-12)))
    return similarities, jnp.take_along_axis(similarities, labels[..., None], axis=-1)[..., 0]
