import json

import numpy as np
import pytest
from vlascope_server.robots import NormStats, NormStatsError, RunningStats, load_norm_stats, save_norm_stats
from vlascope_server.robots.arithmetic import quantiles


def test_running_stats_equal_the_reference(golden):
    running = RunningStats()
    for i in range(3):
        running.update(golden[f"running_stats/batch_{i}"])
    stats = running.result()
    assert running.count == 3 * 100 * 50
    # the reference sums in float32
    np.testing.assert_allclose(stats.mean, golden["running_stats/mean"], atol=5e-6)
    np.testing.assert_allclose(stats.std, golden["running_stats/std"], atol=5e-6)
    np.testing.assert_array_equal(stats.q01, golden["running_stats/q01"])
    np.testing.assert_array_equal(stats.q99, golden["running_stats/q99"])


def test_running_stats_are_close_to_the_exact_ones():
    data = np.random.default_rng(0).normal(3.0, 2.0, (4000, 2))
    running = RunningStats()
    for batch in np.split(data, 8):
        running.update(batch)
    stats = running.result()
    np.testing.assert_allclose(stats.mean, data.mean(0))
    np.testing.assert_allclose(stats.std, data.std(0))
    np.testing.assert_allclose(quantiles(stats), np.quantile(data, [0.01, 0.99], axis=0), atol=0.1)


def test_running_stats_of_a_constant_dimension():
    running = RunningStats()
    running.update(np.array([[1.5, 0.0], [1.5, 1.0]]))
    running.update(np.array([[1.5, 7.0]]))
    stats = running.result()
    assert stats.std[0] == 0
    np.testing.assert_allclose([q[0] for q in quantiles(stats)], 1.5)


def test_running_stats_refuse_bad_vectors():
    running = RunningStats()
    running.update(np.zeros((2, 3)))
    with pytest.raises(NormStatsError, match="length 3 as before, found 4"):
        running.update(np.zeros((1, 4)))
    with pytest.raises(NormStatsError, match="vector 3, dimension 2: nan"):
        running.update(np.array([[0.0, 0, 0], [0, 0, np.nan]]))
    with pytest.raises(NormStatsError, match="at least 2 vectors, found 0"):
        RunningStats().result()


def test_file_round_trip_is_exact(tmp_path):
    rng = np.random.default_rng(0)
    stats = {
        "state": NormStats(rng.normal(size=8), rng.random(8), -rng.random(8), rng.random(8)),
        "actions": NormStats(rng.normal(size=7), rng.random(7)),
    }
    save_norm_stats(tmp_path / "norm_stats.json", stats)
    loaded = load_norm_stats(tmp_path / "norm_stats.json")
    assert list(loaded) == ["state", "actions"]
    for key, field in (("state", "mean"), ("state", "std"), ("state", "q01"), ("state", "q99"), ("actions", "mean")):
        np.testing.assert_array_equal(getattr(loaded[key], field), getattr(stats[key], field))
        assert getattr(loaded[key], field).dtype == np.float64
    assert loaded["actions"].q01 is None
    assert [path.name for path in tmp_path.iterdir()] == ["norm_stats.json"]


def _stats(**entry):
    return json.dumps({"norm_stats": {"state": entry}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "expected JSON"),
        ("[]", "expected a map, found []"),
        ('{"norm_stats": {}}', "expected a map 'norm_stats' from 'state' and 'actions' to their statistics, found []"),
        ('{"norm_stats": {"image": {}}}', "from 'state' and 'actions' to their statistics, found ['image']"),
        ('{"norm_stats": null}', "norm_stats: expected a map, found None"),
        ('{"norm_stats": {"state": null}}', "norm_stats.state: expected a map, found None"),
        (_stats(mean=[1.0]), "state: expected a map with mean and std, found ['mean']"),
        (_stats(mean=[1.0], std=[1.0, 2.0]), "state: std: expected a vector as long as mean (1,), found shape (2,)"),
        (_stats(mean=["1.0"], std=[1.0]), "norm_stats.state.mean.0: expected a finite number, found '1.0'"),
        (_stats(mean=[True], std=[1.0]), "norm_stats.state.mean.0: expected a finite number, found True"),
        (_stats(mean=[10**400], std=[1.0]), "norm_stats.state.mean.0: expected a finite number, found 1000"),
        (_stats(mean=[None], std=[1.0]), "norm_stats.state.mean.0: expected a finite number, found None"),
        (_stats(mean=None, std=[1.0]), "norm_stats.state.mean: expected a list of numbers, found None"),
        (_stats(mean=[float("nan")], std=[1.0]), "norm_stats.state.mean.0: expected a finite number, found nan"),
        (_stats(mean=[1.0], std=[-1.0]), "state: std: dimension 0 is negative"),
        (_stats(mean=[1.0], std=[1.0], q01=[0.0]), "state: q01 and q99: expected both or neither"),
        (_stats(mean=1.0, std=1.0), "norm_stats.state.mean: expected a list of numbers, found 1.0"),
        (_stats(mean=[1.0], std=[1.0], q01=[2.0], q99=[1.0]), "state: q01: dimension 0 is 2, above q99's 1"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "norm_stats.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NormStatsError) as error:
        load_norm_stats(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(NormStatsError, match="cannot be read: Is a directory"):
        load_norm_stats(tmp_path)


def test_statistics_of_anything_else_are_left_alone(tmp_path):
    entries = {"state": {"mean": [1.0], "std": [2.0]}, "tactile": "not yet", "actions": {"mean": [3.0], "std": [4.0]}}
    (tmp_path / "norm_stats.json").write_text(json.dumps({"norm_stats": {"image": None, **entries}}))
    loaded = load_norm_stats(tmp_path / "norm_stats.json")
    assert {key: (entry.mean.item(), entry.std.item()) for key, entry in loaded.items()} == {
        "state": (1.0, 2.0),
        "actions": (3.0, 4.0),
    }
