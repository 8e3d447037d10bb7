"""Results survive a process that is killed, and rates say how sure they are."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import EpisodeKey
from vlascope_sim.rollout.results import ResultFile, final_rows, write_parquet
from vlascope_sim.rollout.summary import summarise
from vlascope_sim.statistics import percentiles, wilson_interval

from tests.sim_eval.campaigns import campaign, row

OURS = campaign(tasks=(0, 1), episodes=(0, 1))


@pytest.mark.parametrize(("wins", "trials"), [(0, 1), (0, 10), (5, 10), (10, 10), (17, 20), (455, 500)])
def test_wilson_interval_is_scipys(wins, trials):
    expected = scipy.stats.binomtest(wins, trials).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson_interval(wins, trials), (expected.low, expected.high), atol=1e-12)


def test_nothing_tried_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)
    assert percentiles([]) is None


def test_a_torn_line_is_no_result_and_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "episodes.jsonl"
    results = ResultFile(path)
    results.append(row(OURS, EpisodeKey(0, 0)))
    results.append(row(OURS, EpisodeKey(0, 1)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = ResultFile(path)
    assert [r.key for r in again.rows] == [EpisodeKey(0, 0)]
    again.append(row(OURS, EpisodeKey(0, 1)))
    assert path.read_bytes() == whole
    assert ResultFile(path).rows == again.rows


def test_a_line_in_the_middle_that_is_none_is_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"suite": "x"}\n')
    with pytest.raises(RolloutError, match=r"episodes\.jsonl, line 1"):
        ResultFile(path)


def test_results_of_another_vlascope_are_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    old = dataclasses.asdict(row(OURS, EpisodeKey(0, 0)))
    old["prompt"] = old.pop("task_instruction")
    path.write_text(json.dumps(old) + "\n")
    with pytest.raises(
        RolloutError, match="fields prompt, task_instruction are unknown or missing: another vlascope wrote it"
    ):
        ResultFile(path)


def test_the_last_attempt_counts_and_done_stays_done():
    a, b = EpisodeKey(0, 0), EpisodeKey(1, 1)
    rows = [
        row(OURS, b, status="lost", success=None),
        row(OURS, a, status="error", success=None),
        row(OURS, b, 2, steps=7),
        row(OURS, a, 2, success=False),
        row(OURS, b, 3, status="error", success=None),
    ]
    assert [(r.key, r.status, r.attempt) for r in final_rows(rows)] == [(a, "done", 2), (b, "done", 2)]


def test_errors_are_in_no_rate():
    rows = [
        row(OURS, EpisodeKey(0, 0), success=True, steps=10, latency_ms=(1.0, 3.0)),
        row(OURS, EpisodeKey(0, 1), success=False, steps=30, latency_ms=(5.0,)),
        row(OURS, EpisodeKey(1, 0), status="error", success=None, latency_ms=()),
    ]
    summary = summarise(OURS, rows)
    suite = summary["suite"]
    assert (suite["episodes"], suite["successes"], suite["success_rate"]) == (2, 1, 0.5)
    assert (suite["errors"], suite["missing"]) == (1, 1)
    assert (suite["mean_steps"], suite["mean_steps_of_successes"]) == (20, 10)
    assert suite["latency_ms"] is not None
    assert suite["latency_ms"]["p50"] == 3.0
    assert suite["wilson_95"] == list(wilson_interval(1, 2))
    assert summary["tasks"]["1"]["success_rate"] is None
    assert json.loads(json.dumps(summary)) == summary


def test_told_objects_count_where_they_were_told():
    ours = campaign(tasks=(0,), episodes=(0, 1, 2), prompt_mode="other", perturb="move")
    lifted = [ours.told(ours.keys[0]).object, "basket_1", None]
    rows = [row(ours, key, lifted_first=name) for key, name in zip(ours.keys, lifted, strict=True)]
    summary = summarise(ours, rows)
    told = summary["suite"]["told_lifted_first"]
    assert told == {"count": 1, "of": 3, "wilson_95": list(wilson_interval(1, 3)), "none_lifted": 1}
    assert summary["conditions"] == "objects moved by up to 5 cm, told another object"
    blank = campaign(prompt_mode="blank")
    assert summarise(blank, [row(blank, blank.keys[0])])["suite"]["told_lifted_first"]["wilson_95"] is None


def test_the_table_has_every_field(tmp_path):
    moved = {"perturbation": {"seed": 3}, "lifted_first": "milk_1", "warnings": ("prompt: cut",)}
    rows = [row(OURS, EpisodeKey(0, 0), **moved), row(OURS, EpisodeKey(0, 1), status="error", success=None, reason="x")]
    write_parquet(tmp_path / "e.parquet", rows)
    table = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [r["warnings"] for r in table] == [["prompt: cut"], []]
    assert table[0]["latency_ms"] == [1.0, 2.0]
    assert [r["success"] for r in table] == [True, None]
    assert json.loads(table[1]["versions"]) == rows[1].versions
    assert table[1]["assets"] == "stand-in"
    assert [json.loads(r["perturbation"]) for r in table] == [{"seed": 3}, None]
    assert [r["lifted_first"] for r in table] == ["milk_1", None]
