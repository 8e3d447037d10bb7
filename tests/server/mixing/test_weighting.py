"""Sums with weights, against numpy's in float64; task vectors, against whole-vector versions of the published algorithms."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from vlascope_server.mixing import weighting
from vlascope_server.mixing.tasks import Tasks, magnitude_above
from vlascope_server.mixing.weighting import Groups, weighted_sum
from vlascope_server.model import parameter_shapes

from tests.server.small_models import small_config

SHAPES = parameter_shapes(small_config())
STACKED = "PaliGemma/llm/layers/mlp_1/gating_einsum"


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((6, 7, 5)).astype(np.float32) for _ in range(3)]


def test_sums_against_float64(arrays, monkeypatch):
    monkeypatch.setattr(weighting, "_BLOCK", 40)  # several blocks
    weights = np.array([0.2, 0.5, 0.3])
    expected = np.einsum("k,k...->...", weights, np.stack(arrays).astype(np.float64))
    np.testing.assert_allclose(weighted_sum(arrays, weights), expected, rtol=1e-5, atol=1e-6)


def test_each_layer_has_its_weights(arrays, monkeypatch):
    monkeypatch.setattr(weighting, "_BLOCK", 80)
    weights = np.random.default_rng(1).dirichlet(np.ones(3), 6)
    expected = np.einsum("lk,kl...->l...", weights, np.stack(arrays).astype(np.float64))
    np.testing.assert_allclose(weighted_sum(arrays, weights), expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_summed_in_float32_and_rounded_once(arrays):
    low = [a.astype(ml_dtypes.bfloat16) for a in arrays]
    found = weighted_sum(low, np.array([0.2, 0.5, 0.3]))
    assert found.dtype == ml_dtypes.bfloat16
    exact = np.einsum("k,k...->...", np.array([0.2, 0.5, 0.3]), np.stack(low).astype(np.float64))
    rounded = exact.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert (found.astype(np.float64) == rounded.astype(np.float64)).mean() > 0.999


def test_scalars_and_empty_arrays():
    assert weighted_sum([np.array(1, np.float32), np.array(3, np.float32)], np.array([0.5, 0.5])) == 2
    assert weighted_sum([np.zeros((0, 3), np.float32)] * 2, np.array([0.5, 0.5])).shape == (0, 3)


def test_groups():
    assert Groups.of(SHAPES, "checkpoint").names == ("all parameters",)
    components = Groups.of(SHAPES, "component")
    assert components.names == ("vision", "vlm", "action expert", "projections")
    assert components.rows[STACKED] == components.names.index("action expert")
    layers = Groups.of(SHAPES, "layer")
    rows = layers.rows[STACKED]
    assert isinstance(rows, tuple)
    assert [layers.names[row] for row in rows] == [f"action expert, layer {k}" for k in range(3)]
    assert layers.rows["PaliGemma/llm/final_norm_1/scale"] == layers.names.index("action expert")
    assert layers.rows["action_in_proj/bias"] == layers.names.index("projections")
    used = {row for rows in layers.rows.values() for row in (rows if isinstance(rows, tuple) else (rows,))}
    assert used == set(range(len(layers.names)))


def test_task_arithmetic():
    base, one, two = (np.random.default_rng(k).standard_normal((4, 5)).astype(np.float32) for k in range(3))
    found = Tasks("sum", (0.5, -1.0), 1.0).applied("x", base, [one, two])
    np.testing.assert_allclose(found, base + 0.5 * (one - base) - (two - base), atol=1e-6)
    np.testing.assert_array_equal(Tasks("sum", (0.0, 0.0), 1.0).applied("x", base, [one, two]), base)


def ties(base, tuned, kept, scale):
    """Algorithm 1 over whole vectors: trim, elect, merge."""
    vectors = []
    for array in tuned:
        vector = array - base
        order = np.argsort(-np.abs(vector))
        trimmed = np.zeros_like(vector)
        top = order[: round(kept * len(vector))]
        trimmed[top] = vector[top]
        vectors.append(trimmed)
    elected = np.sign(sum(vectors))
    merged = np.zeros_like(base)
    for k in range(len(base)):
        agree = [v[k] for v in vectors if v[k] != 0 and np.sign(v[k]) == elected[k]]
        merged[k] = np.mean(agree) if agree else 0
    return base + scale * merged


@pytest.mark.parametrize(("kept", "scale"), [*itertools.product((0.2, 0.5, 1.0), (1.0, 0.4))])
def test_ties_against_whole_vectors(kept, scale):
    rng = np.random.default_rng(3)
    base = rng.standard_normal(500).astype(np.float32)
    tuned = [base + rng.standard_normal(500).astype(np.float32) * rng.choice([0.0, 1.0], 500) for _ in range(3)]
    tuned = [array.astype(np.float32) for array in tuned]
    thresholds = tuple(
        magnitude_above(lambda a=a: iter((a[:200] - base[:200], a[200:] - base[200:])), kept) for a in tuned
    )
    found = Tasks("ties", (scale,), kept, thresholds).applied("x", base, tuned)
    np.testing.assert_allclose(found, ties(base, tuned, kept, scale), atol=1e-5)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.73, 1.0])
def test_magnitudes_against_sorting(share):
    values = np.random.default_rng(0).standard_cauchy(10_000).astype(np.float32)
    found = magnitude_above(lambda: iter(np.array_split(values, 7)), share)
    assert (np.abs(values) >= found).sum() == round(share * len(values))


def test_dare_keeps_the_mean_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    base = rng.standard_normal((300, 300)).astype(np.float32)
    tuned = base + 1
    tasks = Tasks("dare", (1.0,), 0.25, seed=5)
    found = tasks.applied("x", base, [tuned]) - base
    assert set(np.round(np.unique(found), 3)) == {0.0, 4.0}
    assert abs(found.mean() - 1) < 0.03
    np.testing.assert_array_equal(tasks.applied("x", base, [tuned]) - base, found)
    assert (tasks.applied("y", base, [tuned]) - base != found).any()


def test_dare_drops_the_same_however_large_the_blocks(monkeypatch):
    base, tuned = np.zeros((60, 50), np.float32), np.ones((60, 50), np.float32)
    tasks = Tasks("dare", (1.0,), 0.5)
    whole = tasks.applied("x", base, [tuned])
    monkeypatch.setattr(weighting, "_BLOCK", 170)
    np.testing.assert_array_equal(tasks.applied("x", base, [tuned]), whole)
