"""Campaigns beside each other: planted differences are found, equal policies are not told apart more often than chance does."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from vlascope_sim.commands import main
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.campaign_file import write_campaign
from vlascope_sim.rollout.comparison import compare, read_folder
from vlascope_sim.rollout.results import RESULT_FILE, ResultFile
from vlascope_sim.statistics import paired_interval, wilson_interval

from tests.sim_eval.campaigns import campaign, row


def apart(this, that, scenes=None) -> bool:
    low, high = paired_interval(this, that, scenes)
    return not low <= 0 <= high


def of_counts(both: int, only_this: int, only_that: int, neither: int):
    pairs = (
        [(True, True)] * both + [(True, False)] * only_this + [(False, True)] * only_that + [(False, False)] * neither
    )
    return paired_interval(*zip(*pairs, strict=True))


def test_the_paired_interval_is_newcombes():
    """By hand from the paper's formulas: rates 0.6 and 0.4 of 20, phi = (6 * 6 - 2 * 6 - 10) / sqrt(12 * 8 * 8 * 12)."""
    rates, n = (12, 8), 20
    (l1, u1), (l2, u2) = (wilson_interval(wins, n) for wins in rates)
    phi = (6 * 6 - 6 * 2 - n / 2) / np.sqrt(12 * 8 * 8 * 12)
    below = np.sqrt((0.6 - l1) ** 2 - 2 * phi * (0.6 - l1) * (u2 - 0.4) + (u2 - 0.4) ** 2)
    above = np.sqrt((u1 - 0.6) ** 2 - 2 * phi * (u1 - 0.6) * (0.4 - l2) + (0.4 - l2) ** 2)
    np.testing.assert_allclose(of_counts(6, 6, 2, 6), (0.2 - below, 0.2 + above))


def test_what_always_agrees_has_an_interval_too():
    for counts in ((10, 0, 0, 0), (0, 0, 0, 10), (5, 0, 0, 5)):
        low, high = of_counts(*counts)
        assert -0.5 < low < 0 < high < 0.5


def test_turned_around_the_interval_is_turned_around():
    low, high = of_counts(10, 8, 2, 20)
    np.testing.assert_allclose(of_counts(10, 2, 8, 20), (-high, -low))


@pytest.mark.parametrize(("episodes", "repeats"), [(10, 1), (50, 1), (50, 4)])
def test_equal_policies_are_told_apart_at_most_as_often_as_chance_does(episodes, repeats):
    """Scenes are of different difficulty, the same for both policies; repeats of a scene have a luck of their own."""
    rng = np.random.default_rng(7)
    told, scenes = 0, np.repeat(np.arange(episodes), repeats).tolist()
    for _ in range(300):
        difficulty = np.repeat(rng.uniform(size=episodes), repeats)
        this, that = (rng.uniform(size=episodes * repeats) < difficulty for _ in range(2))
        told += apart(this, that, scenes)
    assert told <= 0.05 * 300


def test_policies_that_differ_by_scene_alone_are_not_told_apart_by_repeats():
    """Each policy always succeeds in half of the scenes, whichever: ten repeats of each tell nothing more."""
    rng = np.random.default_rng(3)
    scenes = np.repeat(np.arange(40), 10).tolist()
    told = fooled = 0
    for _ in range(300):
        this, that = (np.repeat(rng.uniform(size=40) < 0.5, 10) for _ in range(2))
        told += apart(this, that, scenes)
        fooled += apart(this, that)
        np.testing.assert_allclose(paired_interval(this, that, scenes), paired_interval(this[::10], that[::10]))
    assert told <= 0.05 * 300
    assert fooled > 0.3 * 300


def test_a_known_difference_is_found():
    rng = np.random.default_rng(5)
    found = covered = 0
    for _ in range(300):
        difficulty = rng.uniform(0.2, 0.6, size=100)
        luck = rng.uniform(size=100)  # of the scene: a pair shares it
        this, that = luck < difficulty + 0.2, luck < difficulty
        low, high = paired_interval(this, that)
        found += low > 0
        covered += low <= 0.2 <= high
    assert found > 0.95 * 300
    assert covered > 0.92 * 300


def planted(path, wins, **changed) -> Campaign:
    """A folder in which episode k of both tasks succeeds where `wins(task, k)` says so; None is not run."""
    ours = campaign(**{"id": path.name, "tasks": (0, 1), "episodes": tuple(range(30)), **changed})
    path.mkdir()
    write_campaign(path / "campaign.yaml", ours)
    results = ResultFile(path / RESULT_FILE)
    for key in ours.keys:
        if (won := wins(key.task, key.episode)) is not None:
            results.append(row(ours, key, success=won))
    return ours


def test_one_table_of_all(tmp_path, capsys):
    first, better, same = (tmp_path / name for name in ("first", "better", "same"))
    planted(first, lambda task, k: k % 3 == 0)
    planted(better, lambda task, k: k % 3 == 0 or task == 1)
    planted(same, lambda task, k: k % 3 == 1 if k < 20 else None)
    files = ["--csv", str(tmp_path / "out" / "t.csv"), "--parquet", str(tmp_path / "t.parquet")]
    assert main(["results", str(first), str(better), str(same), *files]) == 0
    out = capsys.readouterr().out
    assert f"{better} against {first}: +33.3 points" in out
    assert "over 60 episodes in common: more successes." in out
    assert f"{same} against {first}: +0.0 points" in out
    verdicts = [line.partition(name)[2].rpartition("  ")[2].strip() for name in ("better", "same")
                for line in out.splitlines() if f" {name} " in line and "against" not in line]  # fmt: skip
    assert verdicts == ["not told apart", "more successes", "more successes", *["not told apart"] * 3]
    assert "over 40 episodes in common: not told apart: the interval contains 0." in out
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(r["task"], r["campaign"]) for r in table] == [
        (task, str(path)) for task in ("0", "1", "all") for path in (first, better, same)
    ]
    assert table[0]["in_common"] is table[0]["difference"] is table[0]["told_apart"] is None
    task_1 = table[4]
    assert (task_1["successes"], task_1["episodes"], task_1["in_common"]) == (30, 30, 30)
    assert (task_1["only_first"], task_1["only_this"], task_1["told_apart"]) == (0, 20, True)
    assert task_1["difference"] == pytest.approx(2 / 3)
    assert (task_1["wilson_low"], task_1["wilson_high"]) == wilson_interval(30, 30)
    assert (table[3]["campaign_id"], table[4]["task_name"]) == (
        "first",
        row(campaign(tasks=(1,)), campaign(tasks=(1,)).keys[0]).task_name,
    )
    assert (table[1]["difference"], table[1]["told_apart"]) == (0.0, False)
    with (tmp_path / "out" / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table[0])
    assert (rows[4]["told_apart"], rows[0]["difference"]) == ("true", "")
    assert float(rows[8]["difference_low"]) == table[8]["difference_low"]


def on_a_terminal(monkeypatch, width: int, *words: object) -> list[str]:
    """The lines that `results` shows on a terminal of that width."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")  # rich takes a dumb one for 80 columns
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["results", *map(str, words)]) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()


@pytest.mark.parametrize("width", [80, 90, 120])
def test_on_a_terminal_names_and_verdicts_stay_and_words_are_whole(tmp_path, monkeypatch, width):
    a, b, c = (tmp_path / name for name in ("roA", "roB", "a-name-that-is-longer-than-its-column"))
    planted(a, lambda task, k: k % 3 == 0)
    planted(b, lambda task, k: k % 3 == 0 or task == 1)
    planted(c, lambda task, k: k % 3 == 1)
    monkeypatch.chdir(tmp_path)
    lines = on_a_terminal(monkeypatch, width, a.name, b.name)
    assert max(map(len, lines)) <= width
    header = next(line for line in lines if "task" in line)
    names = ["task", "campaign", "success", "interval", "difference", "interval"]
    assert header.split() in ([*names, "in", "common"], [*names, "common"])
    text = " ".join(" ".join(lines).split())
    assert (text.count(" roA "), text.count(" roB ")) == (3, 3 + 1), "the sentence below names it too"
    assert {"more", "successes", "told", "apart"} <= set(text.split())
    assert "over 60 episodes in common: more successes." in text
    long = on_a_terminal(monkeypatch, width, a.name, b.name, c.name)
    assert max(map(len, long)) <= width
    assert sum(line.rstrip().endswith(("told apart", "not told")) for line in long) >= 3
    assert {"more", "successes", "told", "apart"} <= set(" ".join(long).split())


def test_a_terminal_that_is_too_narrow_loses_no_column(tmp_path, monkeypatch):
    for name in ("roA", "roB"):
        planted(tmp_path / name, lambda task, k: k % 3 == 0)
    monkeypatch.chdir(tmp_path)
    lines = on_a_terminal(monkeypatch, 40, "roA", "roB")
    assert any(line.split()[:2] == ["task", "campaign"] for line in lines)
    assert any(line.rstrip().endswith("apart") for line in lines)


def test_what_many_tasks_are_told_is_not_shown_in_a_warning(tmp_path, caplog):
    planted(tmp_path / "a", lambda *_: True)
    planted(tmp_path / "b", lambda *_: True, prompts={0: "say something long", 1: "and something else"})
    assert main(["results", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    (said,) = [record.getMessage() for record in caplog.records if "prompts" in record.getMessage()]
    assert said.startswith(f"prompts differs: none in {tmp_path / 'a'}, 2 texts of its own in {tmp_path / 'b'}: ")


def test_what_makes_campaigns_incomparable_is_said(tmp_path, caplog):
    planted(tmp_path / "a", lambda *_: True)
    planted(
        tmp_path / "b", lambda task, k: True if k else None, seed=8, render="fast", replan_steps=10, workers=7, perturb="move",
        prompt_mode="blank",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert main(["results", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = [record.getMessage() for record in caplog.records]
    a, b = tmp_path / "a", tmp_path / "b"
    tail = ": the campaigns differ in more than their policies"
    assert said == [
        f"seed differs: 7 in {a}, 8 in {b}{tail}",
        f"prompt_mode differs: 'task' in {a}, 'blank' in {b}{tail}",
        f"perturb differs: 'none' in {a}, 'move' in {b}{tail}",
        f"render differs: 'full' in {a}, 'fast' in {b}{tail}",
        f"replan_steps differs: 5 in {a}, 10 in {b}{tail}",
        f"{b}: 2 of its 60 episodes have not been run yet",
    ]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    a, b, c, empty = (tmp_path / name for name in ("a", "b", "c", "empty"))
    planted(a, lambda *_: True)
    planted(b, lambda *_: True, episodes=(40, 41))
    planted(c, lambda *_: True, suite="libero_goal")
    planted(empty, lambda *_: None)
    for words, said in (
        ((a, b), f"{b}: has no episode in common with {a} (same suite, task, episode and repeat): libero_object tasks 0, 1 "
                 "episodes 40, 41 repeats 0 here, libero_object tasks 0, 1 episodes 0-29 repeats 0 there"),
        ((a, c), f"{c}: has no episode in common with {a} (same suite, task, episode and repeat): libero_goal tasks"),
        ((a, empty), f"{empty}: no episode is done; `vlascope-sim rollout --resume {empty}` goes on"),
        ((a, tmp_path), f"{tmp_path}: expected a folder of rollouts, found no campaign.yaml in it"),
        ((a, a), f"{a}: is given twice"),
    ):  # fmt: skip
        assert main(["results", *map(str, words)]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"vlascope-sim: {said}")


def test_one_campaign_alone_is_a_table_too(tmp_path, capsys):
    planted(tmp_path / "a", lambda task, k: task == 0)
    assert main(["results", str(tmp_path / "a")]) == 0
    assert "30 of 30 (100%)" in capsys.readouterr().out


def test_a_task_without_episodes_in_common_says_so(tmp_path, capsys):
    planted(tmp_path / "a", lambda *_: True)
    planted(tmp_path / "b", lambda task, k: False if task == 0 or k < 0 else None)
    assert main(["results", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "fewer successes" in out
    assert "nothing to compare" in out


def test_episodes_that_could_not_be_run_are_in_no_pair(tmp_path):
    ours = planted(tmp_path / "a", lambda *_: True)
    planted(tmp_path / "b", lambda *_: None)
    results = ResultFile(tmp_path / "b" / RESULT_FILE)
    for number, key in enumerate(ours.keys):
        status = {"status": "error", "success": None} if number % 2 else {}
        results.append(row(campaign(id="b", tasks=(0, 1), episodes=ours.episodes), key, **status))
    last = compare([read_folder(tmp_path / name) for name in "ab"]).rows[-1]
    assert (last.episodes, last.errors, last.in_common, last.difference) == (30, 30, 30, 0.0)
    with pytest.raises(RolloutError, match=r"found no campaign\.yaml"):
        read_folder(tmp_path / "none")
