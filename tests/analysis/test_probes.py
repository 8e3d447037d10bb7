"""The solvers against plain implementations of what they say they solve."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.probes import require_training
from vlascope_analysis.probes.linear import Part, train_probes
from vlascope_analysis.probes.ridge import PENALTIES, ridge
from vlascope_analysis.probes.standardise import Standardiser
from vlascope_analysis.statistics.splits import Split

RNG = np.random.default_rng(3)
C, E = 4, 12
EMBEDDINGS = RNG.standard_normal((C, E)).astype(np.float32)
EMBEDDINGS /= np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)


def problem(n: int, D: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.permutation(np.arange(n) % C)
    x = RNG.standard_normal((n, D)) + signal * RNG.standard_normal((C, D))[labels]
    # features of very different scale and a constant one
    return (x * 10 ** RNG.uniform(-2, 2, D) * (np.arange(D) > 0) + 5).astype(np.float32), labels


def plain_ridge(x, of_frame, label, split, weights):
    """Weighted, balanced ridge regression on embeddings with an intercept, written out; answers to test frames and penalty."""
    frames = {name: np.flatnonzero(part[of_frame]) for name, part in (("fit", split.fit), ("held", split.held),
                                                                     ("rest", ~split.test), ("test", split.test))}  # fmt: skip
    weight = weights[of_frame] / np.bincount(of_frame)[of_frame]
    own = label[of_frame]

    def standard(part):
        w = weight[part] / weight[part].sum()
        mean = w @ x[part].astype(np.float64)
        return mean, np.maximum(np.sqrt(w @ (x[part] - mean) ** 2), 1e-5 * np.sqrt(w @ (x[part] - mean) ** 2).max())

    mean, scale = standard(frames["rest"])
    z = (x.astype(np.float64) - mean) / scale

    def fit(part, asked, penalty):
        # a frame's share of its instruction, and each instruction a share of 1 / C
        w = weight[part] / weight[part].sum()
        share = np.array([w[own[part] == c].sum() for c in range(C)])
        y = EMBEDDINGS[own[part]] / (C * share[own[part]])[:, None]
        centre, middle = w @ z[part], w @ y
        a = z[part] - centre
        gram = a.T @ (w[:, None] * a)
        unit = np.trace(gram) / min(a.shape)
        W = np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), a.T @ (w[:, None] * (y - middle)))
        return (z[asked] - centre) @ W + middle

    def agreement(penalty):
        held = frames["held"]
        answer = fit(frames["fit"], held, penalty)
        cosine = (answer * EMBEDDINGS[own[held]]).sum(1) / np.linalg.norm(answer, axis=1)
        importance = weight[held] / np.array([weight[held][own[held] == c].sum() for c in range(C)])[own[held]]
        return np.average(cosine, weights=importance)

    penalty = max(PENALTIES, key=agreement)
    return fit(frames["rest"], frames["test"], penalty), penalty


def parts_of(label: np.ndarray, seed: int) -> Split:
    """Two episodes of each instruction are tested, two are held."""
    rng, part = np.random.default_rng(seed), np.zeros(len(label), int)
    for c in range(C):
        own = rng.permutation(np.flatnonzero(label == c))
        part[own[:2]], part[own[2:4]] = 2, 1
    return Split(part == 0, part == 1, part == 2, np.ones((len(label), C), bool))


@pytest.mark.parametrize(("frames", "D"), [(2, 200), (5, 20)])
def test_ridge_is_ridge(frames, D):
    label = np.repeat(np.arange(C), [12, 7, 7, 6])
    lengths = RNG.integers(1, frames + 1, len(label))
    of_frame = np.repeat(np.arange(len(label)), lengths)
    split, weights = parts_of(label, 1), RNG.uniform(0.2, 1, len(label))
    for signal in (1.0, 0.3):
        x = (
            problem(len(of_frame), D, signal)[0]
            + signal * RNG.standard_normal((C, D)).astype(np.float32)[label[of_frame]]
        )
        moved = label.copy()
        for part in (split.fit, split.held, split.test):
            moved[part] = RNG.permutation(label[part])
        for many in (1, 40):  # few labellings are solved one by one, many through their episodes
            found = ridge(x, of_frame, np.stack([label, *[moved] * many]), EMBEDDINGS, split, weights)
            test = np.flatnonzero(split.test[of_frame])
            for row, own in ((0, label), (many, moved)):
                answers, penalty = plain_ridge(x, of_frame, own, split, weights)
                cosines = answers @ EMBEDDINGS.T / np.linalg.norm(answers, axis=1, keepdims=True)
                true = cosines[np.arange(len(test)), own[of_frame[test]]]
                right = np.bincount(of_frame[test], cosines.argmax(1) == own[of_frame[test]], minlength=len(label))
                beaten = np.bincount(of_frame[test], (cosines < true[:, None]).sum(1) / (C - 1), minlength=len(label))
                np.testing.assert_allclose(found.right[row], right / lengths, atol=1e-6)
                np.testing.assert_allclose(found.beaten[row], beaten / lengths, atol=1e-6)
                if row == 0:
                    assert found.penalty == penalty
                    np.testing.assert_array_equal(found.predicted, cosines.argmax(1))
                    np.testing.assert_allclose(found.cosine, true, atol=2e-3)


def test_ridge_answers_are_candidates():
    label = np.repeat(np.arange(C), 8)
    split = dataclasses.replace(parts_of(label, 2), candidates=np.tile(np.array([False, True, False, True]), (32, 1)))
    # of the test part, those that were told a candidate
    split = dataclasses.replace(
        split, test=split.test & np.isin(label, [1, 3]), held=split.held | (split.test & ~np.isin(label, [1, 3]))
    )
    found = ridge(problem(32, 30)[0], np.arange(32), label[None], EMBEDDINGS, split, np.ones(32))
    assert set(found.predicted) <= {1, 3}
    assert set(found.beaten[0]) <= {0.0, 1.0}, "of two candidates one is left to beat"


def test_a_part_without_a_difference_is_answered_all_the_same():
    label = np.repeat(np.arange(C), 8)
    split = parts_of(label, 3)
    x = np.where(split.test[:, None], RNG.standard_normal((32, 5)), 1).astype(np.float32)
    found = ridge(x, np.arange(32), label[None], EMBEDDINGS, split, np.ones(32))
    assert np.isfinite(found.cosine).all()


def part(x, labels, weights=None) -> Part:
    return Part(x, labels, np.ones(labels.shape, np.float32) if weights is None else weights)


def test_training_is_adam_on_the_cosine_loss():
    # one batch holds everything, and three frames of filling: order and filling must not matter
    x, labels = problem(29, 10)
    x = Standardiser.fit(x, np.ones(len(x)))(x)
    config = TrainingConfig(learning_rate=0.01, num_epochs=30, batch_size=32)
    weights = RNG.uniform(0.5, 2, (1, 29)).astype(np.float32)
    found = train_probes(part(x, labels[None], weights), part(x[:0], labels[None, :0]), EMBEDDINGS, config, 42)
    share = weights[0] / weights.sum()

    def loss(params):
        out = x @ params["kernel"] + params["bias"]
        return (share * (1 - (out * EMBEDDINGS[labels]).sum(-1) / jnp.linalg.norm(out, axis=-1))).sum()

    # from the best constant answer
    params: Any = {"kernel": jnp.zeros((10, E), jnp.float32), "bias": jnp.asarray(share @ EMBEDDINGS[labels])}
    adam = optax.adam(config.learning_rate, eps=1e-5)
    state, losses = adam.init(params), []
    for _ in range(config.num_epochs):
        value, gradient = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(gradient, state)
            params = optax.apply_updates(params, updates)
        losses.append(float(value))
    np.testing.assert_allclose(found.kernel[0], params["kernel"], atol=1e-4)
    np.testing.assert_allclose(found.history["train_loss"], losses, atol=1e-4)
    np.testing.assert_allclose(found.predict(x)[0], x @ found.kernel[0] + found.bias[0], atol=1e-5)


def test_maps_trained_together_are_maps_trained_alone():
    x, labels = problem(40, 10, signal=2.0)
    x = Standardiser.fit(x, np.ones(len(x)))(x)
    labellings = np.stack([labels, RNG.permutation(labels), RNG.permutation(labels)])
    config = TrainingConfig(learning_rate=0.02, num_epochs=40, batch_size=8, patience=3)
    train, held = slice(0, 28), slice(28, 40)
    parts = part(x[train], labellings[:, train]), part(x[held], labellings[:, held])
    together = train_probes(*parts, EMBEDDINGS, config, 42)
    assert len(set(together.epochs)) > 1, "the maps should stop at different epochs for this to test anything"
    for number, own in enumerate(labellings):
        parts = part(x[train], own[None, train]), part(x[held], own[None, held])
        alone = train_probes(*parts, EMBEDDINGS, config, 42)
        assert alone.epochs[0] == together.epochs[number]
        np.testing.assert_allclose(alone.kernel[0], together.kernel[number], atol=1e-4)


def test_early_stopping_keeps_the_best_epoch():
    x, labels = problem(24, 60, signal=0.3)
    x = Standardiser.fit(x, np.ones(len(x)))(x)
    config = TrainingConfig(learning_rate=0.02, num_epochs=200, batch_size=8, patience=5)
    parts = part(x[:16], labels[None, :16]), part(x[16:], labels[None, 16:])
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
    frames = part(x, labels[None])
    for options, said in (({"batch_size": 0}, "--batch-size 0"), ({"learning_rate": -1.0}, "--learning-rate -1.0")):
        config = TrainingConfig(**options)
        with pytest.raises(AnalysisError, match=f"^{said}: expected more than 0$"):
            config.check()
        with pytest.raises(AnalysisError, match=said):
            train_probes(frames, frames, EMBEDDINGS, config, 42)


@pytest.mark.parametrize("package", ["jax", "optax"])
def test_without_what_training_needs_the_error_says_what_to_install(monkeypatch, package):
    require_training()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AnalysisError) as error:
        require_training()
    assert str(error.value).startswith(f"the trained probe needs {package}, which is not installed: install ")
    assert "vlascope-analysis[train]" in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"permutations": -1}, "--permutations -1: expected 0 or more"),
        ({"confidence": 1.0}, "--confidence 1.0: expected a share between 0 and 1"),
        ({"folds": 0}, "--folds 0: expected 1, or 3 and more"),
        ({"folds": 2}, "--folds 2: expected 1, or 3 and more"),
        ({"validation_fraction": 0.0}, "--validation-fraction 0.0: expected a share between 0 and 1"),
    ],
)
def test_evaluation_options_are_checked(options, said):
    EvaluationConfig().check()
    with pytest.raises(AnalysisError, match=f"^{said}"):
        EvaluationConfig(**options).check()


def test_standardiser_leaves_constant_features_alone():
    x = np.stack([np.full(50, 3.0), RNG.standard_normal(50) * 100 + 7], axis=1).astype(np.float32)
    scaled = Standardiser.fit(x, np.ones(len(x)))(x)
    np.testing.assert_allclose(scaled[:, 0], 0)
    np.testing.assert_allclose([scaled[:, 1].mean(), scaled[:, 1].std()], [0, 1], atol=1e-5)
