"""Pooled statistics are those of the pooled data."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.norm_stats import pool_norm_stats
from vlascope_server.robots import NormStats, RunningStats

PARTS = [
    scale * np.random.default_rng(seed).standard_normal((count, 4)) + offset
    for seed, (count, scale, offset) in enumerate([(300, 1.0, 0.0), (17, 0.2, 5.0), (1000, 3.0, -2.0)])
]
for part in PARTS:
    part[:, 3] = 0.1


def moments(data: np.ndarray) -> NormStats:
    constant = np.ptp(data, axis=0) == 0  # as training has it
    return NormStats(np.where(constant, data[0], data.mean(axis=0)), np.where(constant, 0.0, data.std(axis=0)))


def test_mean_and_deviation_are_those_of_all_data():
    stats = [{"state": moments(p), "actions": moments(-2 * p[:, :2])} for p in PARTS]
    pooled, count = pool_norm_stats(stats, [len(p) for p in PARTS])
    together = np.concatenate(PARTS)
    assert count == len(together) == 1317
    np.testing.assert_allclose(pooled["state"].mean, together.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(pooled["state"].std[:3], together.std(axis=0)[:3], rtol=1e-12)
    np.testing.assert_allclose(pooled["actions"].mean, -2 * together.mean(axis=0)[:2], rtol=1e-12)
    np.testing.assert_allclose(pooled["actions"].std, 2 * together.std(axis=0)[:2], rtol=1e-12)
    # with n - 1 in place of n it would be 4e-4 off
    assert np.abs(together.std(axis=0, ddof=1)[:3] / pooled["state"].std[:3] - 1).min() > 1e-4
    # a constant is exactly what it was
    assert pooled["state"].mean[3] == 0.1
    assert pooled["state"].std[3] == 0
    assert pooled["state"].q01 is None


def test_what_one_pass_measures_is_pooled_to_what_it_measures_of_all():
    """The estimator that makes the statistics of checkpoints has the same convention."""
    measured = []
    for data in (*PARTS, np.concatenate(PARTS)):
        running = RunningStats()
        running.update(data)
        measured.append(running.result())
    *parts, together = measured
    pooled, _ = pool_norm_stats([{"state": s} for s in parts], [len(p) for p in PARTS], quantiles_used=False)
    np.testing.assert_allclose(pooled["state"].mean, together.mean, rtol=1e-9)
    np.testing.assert_allclose(pooled["state"].std[:3], together.std[:3], rtol=1e-9)
    assert pooled["state"].q01 is None
    assert pooled["state"].q99 is None


def with_quantiles(stats: NormStats, low: float) -> NormStats:
    width = stats.width
    return NormStats(stats.mean, stats.std, np.full(width, low), np.ones(width))


def test_equal_statistics_pass_unchanged_whatever_the_counts():
    a, b = ({"state": with_quantiles(moments(PARTS[0]), -1), "actions": moments(PARTS[1])} for _ in range(2))
    for counts, expected in (((5, 5), 5), ((None, None), None), ((5, 7), None), ((5, None), None)):
        pooled, count = pool_norm_stats([a, b], counts)
        assert count == expected
        assert pooled["state"] is a["state"]
        assert pooled["actions"] is a["actions"]
    assert pool_norm_stats([a], [None]) == (a, None)


def test_a_quantity_that_is_equal_stays_beside_one_that_is_pooled():
    shared = moments(PARTS[0])
    stats = [{"state": shared, "actions": moments(p)} for p in PARTS[:2]]
    pooled, count = pool_norm_stats(stats, [300, 17])
    assert pooled["state"] is shared
    assert count == 317
    np.testing.assert_allclose(pooled["actions"].std[:3], np.concatenate(PARTS[:2]).std(axis=0)[:3], rtol=1e-12)


def test_equal_quantiles_are_kept():
    stats = [{"state": with_quantiles(moments(p), -1)} for p in PARTS]
    pooled, _ = pool_norm_stats(stats, [1, 2, 3])
    assert pooled["state"].q01 is not None
    np.testing.assert_array_equal(pooled["state"].q01, -1)


def refused(*args, **settings) -> str:
    with pytest.raises(MixingError) as error:
        pool_norm_stats(*args, **settings)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith("give statistics of all their data with --norm-stats FILE")
    return message


def test_what_cannot_be_pooled_is_refused():
    a, b = ({"state": moments(p), "actions": moments(p)} for p in PARTS[:2])
    for unknown in (None, 0):
        message = refused([a, b], [5, unknown])
        assert "those of state and actions differ, and checkpoint 2 does not say of how many states they are" in message
    assert "and b/7 does not say" in refused([a, b], [5, None], names=["a/7", "b/7"])
    low, high = ({"state": with_quantiles(moments(PARTS[0]), q)} for q in (-1.0, -0.5))
    assert "state: the quantiles of checkpoint 1 and checkpoint 2 differ" in refused([low, high], [5, 5])
    without = {"state": moments(PARTS[0])}
    assert "quantiles" in refused([low, without], [5, 5])
    assert pool_norm_stats([low, high], [5, 5], quantiles_used=False)[0]["state"].q01 is None
    narrow = {"state": moments(PARTS[0][:, :2])}
    assert "state: checkpoint 1 has 4 numbers, checkpoint 2 has 2" in refused([without, narrow], [5, 5])
    assert "checkpoint 1 has them of state, actions, checkpoint 2 of state" in refused([a, narrow], [5, 5])
    with pytest.raises(ValueError, match="expected one count for each"):
        pool_norm_stats([a, b], [5])
