"""The solvers against plain implementations of what they say they solve."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.probes import Standardiser, require_training, ridge_cells, train_probes
from vlascope_analysis.probes.ridge import PENALTIES

RNG = np.random.default_rng(3)
C, E = 4, 12
EMBEDDINGS = RNG.standard_normal((C, E)).astype(np.float32)
EMBEDDINGS /= np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)


def problem(n: int, D: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.permutation(np.arange(n) % C)
    x = RNG.standard_normal((n, D)) + signal * RNG.standard_normal((C, D))[labels]
    # features of very different scale and a constant one
    return (x * 10 ** RNG.uniform(-2, 2, D) * (np.arange(D) > 0) + 5).astype(np.float32), labels


def plain_ridge(x, labels, train, validation, test):
    """Ridge regression on embeddings with an intercept, written out; returns predictions and the penalty."""
    scale = Standardiser.fit(x[train])
    a, b, c = (np.asarray(scale(x[part]), np.float64) for part in (train, validation, test))
    y = EMBEDDINGS[labels].astype(np.float64)
    mean = y[train].mean(0)
    gram = a.T @ a
    # the mean eigenvalue of the smaller Gram matrix
    unit = np.trace(gram) / min(a.shape)
    best = None
    for penalty in PENALTIES:
        W = np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), a.T @ (y[train] - mean))
        held = b @ W + mean
        score = ((held * y[validation]).sum(1) / np.linalg.norm(held, axis=1)).mean()
        if best is None or score > best[0] + 1e-7:
            best = (score, penalty, c @ W + mean)
    assert best is not None
    return best[2], best[1]


@pytest.mark.parametrize(("n", "D"), [(60, 200), (160, 20)])
def test_ridge_is_ridge(n, D):
    cells = [problem(n, D, signal) for signal in (1.0, 0.3)]
    parts = dict(zip(("train", "validation", "test"), np.split(RNG.permutation(n), [n // 2, 3 * n // 4]), strict=True))
    for x, labels in cells:
        other = RNG.permutation(labels)
        found = ridge_cells(x[None], np.stack([labels, other]), EMBEDDINGS, parts, np.ones(C, bool))
        for row, own in enumerate((labels, other)):
            predicted, penalty = plain_ridge(x, own, parts["train"], parts["validation"], parts["test"])
            similarity = predicted @ EMBEDDINGS.T / np.linalg.norm(predicted, axis=1, keepdims=True)
            np.testing.assert_allclose(found["penalty"][0, row], penalty, rtol=1e-4)
            np.testing.assert_array_equal(found["predicted"][0, row], similarity.argmax(1))
            true = similarity[np.arange(len(similarity)), own[parts["test"]]]
            np.testing.assert_allclose(found["cosine"][0, row], true, atol=2e-3)


def test_ridge_answers_are_candidates():
    x, labels = problem(60, 30)
    parts = dict(zip(("train", "validation", "test"), np.split(RNG.permutation(60), [30, 45]), strict=True))
    candidates = np.array([False, True, False, True])
    found = ridge_cells(x[None], labels[None], EMBEDDINGS, parts, candidates)
    assert set(found["predicted"].ravel()) <= {1, 3}


def test_training_is_adam_on_the_cosine_loss():
    # one batch holds everything, and three frames of filling: order and filling must not matter
    x, labels = problem(29, 10)
    x = Standardiser.fit(x)(x)
    config = TrainingConfig(learning_rate=0.01, num_epochs=30, batch_size=32)
    empty = (x[:0], labels[None, :0])
    found = train_probes((x, labels[None]), empty, EMBEDDINGS, config, 42)

    def loss(params):
        out = x @ params["kernel"] + params["bias"]
        return 1 - ((out * EMBEDDINGS[labels]).sum(-1) / jnp.linalg.norm(out, axis=-1)).mean()

    # from the best constant answer
    params: Any = {"kernel": jnp.zeros((10, E), jnp.float32), "bias": jnp.asarray(EMBEDDINGS[labels].mean(axis=0))}
    adam = optax.adam(config.learning_rate, eps=1e-5)
    state, losses = adam.init(params), []
    for _ in range(config.num_epochs):
        value, gradient = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(gradient, state)
            params = optax.apply_updates(params, updates)
        losses.append(float(value))
    np.testing.assert_allclose(found.kernel[0], params["kernel"], atol=2e-5)
    np.testing.assert_allclose(found.history["train_loss"], losses, atol=2e-5)
    np.testing.assert_allclose(found.predict(x)[0], x @ found.kernel[0] + found.bias[0], atol=1e-5)


def test_maps_trained_together_are_maps_trained_alone():
    x, labels = problem(40, 10)
    x = Standardiser.fit(x)(x)
    labellings = np.stack([labels, RNG.permutation(labels), RNG.permutation(labels)])
    config = TrainingConfig(learning_rate=0.02, num_epochs=40, batch_size=8, patience=3)
    train, held = slice(0, 28), slice(28, 40)
    together = train_probes((x[train], labellings[:, train]), (x[held], labellings[:, held]), EMBEDDINGS, config, 42)
    assert len(set(together.epochs)) > 1, "the maps should stop at different epochs for this to test anything"
    for number, own in enumerate(labellings):
        alone = train_probes((x[train], own[None, train]), (x[held], own[None, held]), EMBEDDINGS, config, 42)
        assert alone.epochs[0] == together.epochs[number]
        np.testing.assert_allclose(alone.kernel[0], together.kernel[number], atol=1e-4)


def test_early_stopping_keeps_the_best_epoch():
    x, labels = problem(24, 60, signal=0.3)
    x = Standardiser.fit(x)(x)
    config = TrainingConfig(learning_rate=0.02, num_epochs=200, batch_size=8, patience=5)
    parts = (x[:16], labels[None, :16]), (x[16:], labels[None, 16:])
    found = train_probes(*parts, EMBEDDINGS, config, 42)
    losses = found.history["validation_loss"].to_numpy()
    assert len(losses) < 200
    assert len(losses) == found.epochs[0] + 5
    held = found.predict(x[16:])[0]
    kept = 1 - ((held * EMBEDDINGS[labels[16:]]).sum(1) / np.linalg.norm(held, axis=1)).mean()
    assert kept == pytest.approx(losses[found.epochs[0] - 1], abs=1e-5)
    assert kept <= losses.min() + 5 * 1e-4


def test_training_options_are_checked():
    x, labels = problem(8, 4)
    part = (x, labels[None])
    for options, said in (({"batch_size": 0}, "--batch-size 0"), ({"learning_rate": -1.0}, "--learning-rate -1.0")):
        config = TrainingConfig(**options)
        with pytest.raises(AnalysisError, match=f"^{said}: expected more than 0$"):
            config.check()
        with pytest.raises(AnalysisError, match=said):
            train_probes(part, part, EMBEDDINGS, config, 42)


@pytest.mark.parametrize("package", ["jax", "optax"])
def test_without_what_training_needs_the_error_says_what_to_install(monkeypatch, package):
    x, labels = problem(8, 4)
    part = (x, labels[None])
    require_training()
    monkeypatch.setitem(sys.modules, package, None)
    for asked in (require_training, lambda: train_probes(part, part, EMBEDDINGS, TrainingConfig(), 42)):
        with pytest.raises(AnalysisError) as error:
            asked()
        assert str(error.value).startswith(f"the trained probe needs {package}, which is not installed: install ")
        assert "vlascope-analysis[train]" in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"permutations": -1}, "--permutations -1: expected 0 or more"),
        ({"bootstrap_samples": 99}, "--bootstrap-samples 99: expected at least 100"),
        ({"confidence": 1.0}, "--confidence 1.0: expected a share between 0 and 1"),
        ({"folds": 0}, "--folds 0: expected at least 1"),
        ({"validation_fraction": 0.0}, "--validation-fraction 0.0: expected a share between 0 and 1"),
    ],
)
def test_evaluation_options_are_checked(options, said):
    EvaluationConfig().check()
    with pytest.raises(AnalysisError, match=f"^{said}$"):
        EvaluationConfig(**options).check()


def test_standardiser_leaves_constant_features_alone():
    x = np.stack([np.full(50, 3.0), RNG.standard_normal(50) * 100 + 7], axis=1).astype(np.float32)
    scaled = Standardiser.fit(x)(x)
    np.testing.assert_allclose(scaled[:, 0], 0)
    np.testing.assert_allclose([scaled[:, 1].mean(), scaled[:, 1].std()], [0, 1], atol=1e-5)
