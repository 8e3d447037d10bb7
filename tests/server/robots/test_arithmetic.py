import numpy as np
import pytest
from vlascope_server.robots import NormStats, NormStatsError
from vlascope_server.robots.arithmetic import normalise, pad, to_absolute, to_delta, unnormalise

KINDS = ["zscore", "quantile"]


def _stats(golden, key):
    return NormStats(*(golden[f"norm_stats/{key}/{field}"] for field in ("mean", "std", "q01", "q99")))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["state", "actions"])
def test_normalise_equals_the_reference(golden, key, kind, dtype):
    x = golden[f"normalize/{kind}_{dtype}/{key}_in"]
    assert x.dtype == dtype
    found = normalise(x, _stats(golden, key), kind)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, golden[f"normalize/{kind}_{dtype}/{key}_out"])


@pytest.mark.parametrize("kind", KINDS)
def test_normalise_cuts_wider_statistics(golden, kind):
    found = normalise(golden["normalize/narrow_zscore/state_in"], _stats(golden, "state"), kind)
    np.testing.assert_array_equal(found, golden[f"normalize/narrow_{kind}/state_out"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["state", "actions"])
def test_unnormalise_of_padded_arrays_equals_the_reference(golden, key, kind):
    x, stats = golden[f"unnormalize/{key}_in"], _stats(golden, key)
    before, expected = x.copy(), golden[f"unnormalize/{kind}/{key}_out"].copy()
    found = unnormalise(x, stats, kind)
    # on purpose: the reference leaves a millionth of x in what never moved
    still = np.flatnonzero(stats.std == 0)
    np.testing.assert_allclose(found[..., still], expected[..., still], rtol=0, atol=2e-6 * np.abs(x).max())
    expected[..., still] = found[..., still]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_unnormalise_inverts_normalise(kind):
    rng = np.random.default_rng(0)
    stats = NormStats(rng.normal(size=5), rng.random(5), -1 - rng.random(5), rng.random(5))
    x = rng.normal(size=(4, 5))
    np.testing.assert_allclose(unnormalise(normalise(x, stats, kind), stats, kind), x, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_moved_comes_back_exactly(kind):
    """Whatever the model says of it: to a controller a millionth is not nothing."""
    still, moving = np.array([0.3, 0.0]), np.ones(1)
    stats = NormStats(
        np.append(still, 0), np.append([0, 0], moving), np.append(still, -moving), np.append(still, moving)
    )
    found = unnormalise(np.random.default_rng(0).normal(size=(5, 3)) * 100, stats, kind)
    np.testing.assert_array_equal(found[:, :2], np.broadcast_to(still, (5, 2)))
    assert np.unique(found[:, 2]).size == 5


def test_statistics_that_do_not_fit():
    narrow = NormStats(np.zeros(3), np.ones(3))
    with pytest.raises(NormStatsError, match="3 dimensions cannot normalise 4"):
        normalise(np.zeros(4), narrow, "zscore")
    with pytest.raises(NormStatsError, match="needs q01 and q99"):
        normalise(np.zeros(3), narrow, "quantile")
    with pytest.raises(NormStatsError, match="needs q01 and q99"):
        unnormalise(np.zeros(3), narrow, "quantile")


def test_delta_and_absolute_equal_the_reference(golden):
    actions, state, mask = golden["delta/actions_in"], golden["delta/state"], golden["delta/mask"]
    np.testing.assert_array_equal(to_delta(actions, state, mask), golden["delta/actions_out"])
    np.testing.assert_array_equal(actions, golden["delta/actions_in"])
    actions, state = golden["absolute/actions_in"], golden["absolute/state"]
    np.testing.assert_array_equal(to_absolute(actions, state, mask), golden["absolute/actions_out"])
    np.testing.assert_array_equal(actions, golden["absolute/actions_in"])


def test_delta_leaves_its_arguments_alone_and_inverts():
    rng = np.random.default_rng(0)
    actions, state = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 8))
    actions.flags.writeable = state.flags.writeable = False
    mask = (True,) * 6 + (False,)
    delta = to_delta(actions, state, mask)
    np.testing.assert_array_equal(delta[..., 6], actions[..., 6])
    np.testing.assert_allclose(delta[..., :6], actions[..., :6] - state[:, None, :6])
    np.testing.assert_allclose(to_absolute(delta, state, mask), actions)
    np.testing.assert_array_equal(to_delta(actions, state, ()), actions)


def test_pad_equals_the_reference(golden):
    for key in ("state", "actions"):
        found = pad(golden[f"pad/{key}_in"], 32)
        np.testing.assert_array_equal(found, golden[f"pad/{key}_out"])
        assert found.dtype == golden[f"pad/{key}_out"].dtype
    with pytest.raises(ValueError, match="cannot pad 8 dimensions to 7"):
        pad(np.zeros(8), 7)


@pytest.mark.parametrize("kind", ["lerobot_zscore", "lerobot_quantile"])
def test_lerobots_formulas(kind):
    """LeRobot's processor/normalize_processor.py by hand: a dimension that moves, one that hardly does, one that does not."""
    stats = NormStats([1.0, 0.0, 5.0], [2.0, 1e-7, 0.0], [-1.0, -1e-7, 5.0], [3.0, 1e-7, 5.0])
    x = np.array([2.0, 1e-7, 5.0])
    normal = normalise(x, stats, kind)
    expected = [1 / 2.00000001, 1e-7 / 1.1e-7, 0.0] if kind == "lerobot_zscore" else [0.5, 1.0, -1.0]
    np.testing.assert_allclose(normal, expected, rtol=1e-9, atol=1e-9)
    wide = np.array([0.5, 1.0, -1.0, 7.0])
    back = [0.5 * 2 + 1, 1e-7, 5.0, 7.0] if kind == "lerobot_zscore" else [2.0, 1e-7, 5.0, 7.0]
    np.testing.assert_allclose(unnormalise(wide, stats, kind), back, rtol=1e-9)
    assert unnormalise(wide, stats, kind)[2] == 5.0
