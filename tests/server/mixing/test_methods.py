"""The closed forms by hand, and forward selection against every subset that it may look at."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from vlascope_server.mixing.methods import average, given, greedy, inverse_loss


def test_average():
    assert average(4).tolist() == [0.25] * 4


def test_weights_are_divided_by_their_sum():
    np.testing.assert_allclose(given((5, 3, 2), 3), [[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(given((1, 3, 0, 2), 2), [[0.25, 0.75], [0, 1]])


def test_inverse_loss_by_hand():
    # 1/0.1² = 100, 1/0.2² = 25, 1/0.5² = 4: of 129
    np.testing.assert_allclose(inverse_loss([0.1, 0.2, 0.5]), [100 / 129, 25 / 129, 4 / 129])


def test_inverse_loss_of_a_perfect_checkpoint():
    assert inverse_loss([0.0, 0.3, 0.0]).tolist() == [0.5, 0, 0.5]


def test_inverse_loss_of_tiny_losses_does_not_overflow():
    np.testing.assert_allclose(inverse_loss([1e-200, 2e-200]), [0.8, 0.2])


@pytest.mark.parametrize("seed", range(20))
def test_greedy_against_brute_force(seed):
    """Every subset has a drawn loss; the path is followed by looking at all of its supersets by one."""
    rng, count = np.random.default_rng(seed), 5
    losses = {
        mix: float(rng.random()) for size in range(1, count + 1) for mix in itertools.combinations(range(count), size)
    }
    chosen, tried = greedy(count, losses.__getitem__, [losses[k,] for k in range(count)])
    expected = min(((k,) for k in range(count)), key=losses.__getitem__)
    while True:
        larger = [mix for mix in losses if len(mix) == len(expected) + 1 and set(mix) > set(expected)]
        if not larger or min(map(losses.__getitem__, larger)) >= losses[expected]:
            break
        expected = min(larger, key=losses.__getitem__)
    assert chosen == expected
    assert all(losses[mix] == loss for mix, loss in tried)


def test_greedy_stops_where_nothing_improves():
    losses = {(0,): 1.0, (1,): 2.0, (0, 1): 1.0}
    assert greedy(2, losses.__getitem__, [1.0, 2.0])[0] == (0,)
