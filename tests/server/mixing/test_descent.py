"""The gradient of the weights, against differences and against JAX's own through the whole mix; where descent ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_server.checkpoints import opened
from vlascope_server.mixing.descent import Descent, descend, logits_gradient
from vlascope_server.mixing.device import OnDevice, load, spread_weights, sums
from vlascope_server.mixing.inputs import gather
from vlascope_server.mixing.losses import Losses
from vlascope_server.mixing.weighting import Groups

from tests.server.mixing.conftest import CONFIG, save

BIAS = "action_out_proj/bias"


def load_all(locations) -> OnDevice:
    sources = []
    for location in locations:
        with opened(location) as source:
            sources.append(source)
    return load(gather(locations, sources, delta=False), "float32")


@pytest.fixture(scope="module")
def policies(three) -> OnDevice:
    return load_all(three)


@pytest.fixture(scope="module")
def losses(data, policies) -> Losses:
    return Losses(data, CONFIG, policies, draws=2, batch_size=12, seed=0)


def test_gradient_against_jax_through_the_whole_mix_and_differences(policies, losses):
    """Of the layers' weights, among which are those of parameters without layers."""
    groups = Groups.of(policies.differing, "layer")
    logits = np.random.default_rng(2).standard_normal((len(groups.names), 3)).astype(np.float32)
    rows = losses.rows("selection")
    batch, keys = losses.batch(rows), losses.keys(rows)

    @jax.jit
    @jax.value_and_grad
    def whole(logits):
        mixed = sums(policies.theirs, spread_weights(groups, jax.nn.softmax(logits, axis=-1)))
        return losses.mean({**policies.shared, **mixed}, batch, keys)

    expected, gradient = whole(jnp.asarray(logits))
    ours = jax.jit(lambda z: logits_gradient(losses.mean, groups, z, policies.theirs, policies.shared, batch, keys))
    loss, found = ours(jnp.asarray(logits))
    largest = float(np.abs(gradient).max())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert largest > 1e-4
    np.testing.assert_allclose(found, gradient, atol=2e-5 * largest, rtol=2e-3)
    for seed in range(3):
        towards = np.random.default_rng(seed).standard_normal(logits.shape).astype(np.float32)
        ends = [float(whole(jnp.asarray(logits + sign * 0.01 * towards))[0]) for sign in (1, -1)]
        assert float((found * towards).sum()) == pytest.approx((ends[0] - ends[1]) / 0.02, rel=0.02, abs=0.02 * largest)


@pytest.fixture(scope="module")
def biased(base, tmp_path_factory) -> OnDevice:
    """Two checkpoints that differ in one bias: with noise for labels, the loss is a parabola in the weight."""
    folder = tmp_path_factory.mktemp("biased")
    out = {"action_out_proj/kernel": 0.01 * base["action_out_proj/kernel"]}
    return load_all(
        [
            save(folder / str(k), {**base, **out, BIAS: np.full(8, value, np.float32)})
            for k, value in enumerate((1.0, -3.0))
        ]
    )


def test_descent_finds_the_planted_weights(biased, data):
    losses = Losses(data, CONFIG, biased, draws=4, batch_size=12, seed=0)
    groups = Groups.of(biased.differing, "checkpoint")
    shares = np.linspace(0, 1, 41)
    curve = [losses.of(biased.mixed(groups, np.array([[w, 1 - w]])), "selection").mean for w in shares]
    best = shares[int(np.argmin(curve))]
    assert 0.65 < best < 0.85  # the labels' mean is near 0, between 1 and -3
    plain, adaptive = (descend(biased, groups, losses, Descent(60, 0.1, adaptive, 12, 0)) for adaptive in (False, True))
    for weights, steps in (plain, adaptive):
        assert weights[0, 0] == pytest.approx(best, abs=0.05)
        assert len(steps) == 60
        np.testing.assert_allclose(steps[0].weights, [[0.5, 0.5]])
    # the first step is the same; after it the loss, which is lower, makes the adaptive ones shorter
    first, second = ([steps[k].weights[0, 0] for steps in (plain[1], adaptive[1])] for k in (1, 2))
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    assert plain[1][1].loss < plain[1][0].loss
    assert second[1] < second[0]


def test_losses_do_not_depend_on_the_batch(policies, data):
    found = [
        Losses(data, CONFIG, policies, draws=2, batch_size=size, seed=0).of(policies.checkpoint(0), "validation")
        for size in (5, 12)
    ]
    assert found[0].episodes == found[1].episodes == (1, 3, 5)
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-5)


def test_losses_against_a_plain_computation(policies, data):
    """Frame by frame through the teacher-forced velocity, over the seven dimensions that count."""
    from vlascope_server.model import draw_noise_and_time, velocity

    losses = Losses(data, CONFIG, policies, draws=2, batch_size=4, seed=3)
    found = losses.of(policies.checkpoint(1), "selection")
    rows = losses.rows("selection")[:4]  # of the first episode
    assert set(data.episode[rows]) == {0}
    batch, keys = losses.batch(rows), losses.keys(rows)
    counted = np.array(losses.counted)
    total = count = 0.0
    for k in range(4):
        draws = draw_noise_and_time(keys[k], 2, CONFIG)
        one = jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], (batch.inputs, batch.actions, batch.mask))
        for noise, time in zip(draws.noise, draws.time, strict=True):
            params = policies.checkpoint(1)
            predicted, _ = velocity(params, CONFIG, one[0], one[1], noise[None], time[None])
            errors = np.square(predicted - (noise[None] - one[1]))[..., counted].mean(-1)
            total += float((errors * np.asarray(one[2])).sum())
            count += float(np.asarray(one[2]).sum())
    assert found.values[0] == pytest.approx(total / count, rel=1e-4)
