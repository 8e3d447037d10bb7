"""Campaigns that share a server: the store keeps them apart, says what each policy was told, and probes read that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from vlascope_analysis.commands import main as analysis
from vlascope_analysis.results import read_result
from vlascope_latents.store import LatentStore

from tests.server.serving.live_server import LiveServer, serve

OWN = "pick up the alphabet soup and place it in the basket"


def rollout(server: LiveServer, output: Path, *options: str) -> list[dict]:
    """Runs the command; the rows of its results."""
    command = [
        sys.executable, "-m", "vlascope_sim", "rollout", "--server", server.url, "--suite", "libero_object",
        "--tasks", "0", "--max-steps", "5", "--collect-latents", "--experts", "vlm", "--spans", "text", "--render", "fast",
        "--video", "none", "--workers", "1", "--output", str(output), *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve("--store", str(tmp_path_factory.mktemp("runs")), "--min-free", "1MB") as live:
        yield live


def test_a_probe_reads_what_was_told_in_one_and_the_same_scene(server, tmp_path):
    # with this seed the eight episodes are told two objects, four times each, and neither is the scene's own
    rows = rollout(server, tmp_path / "out", "--episodes", "0-7", "--prompt-mode", "other", "--seed", "160")
    assert {row["task_instruction"] for row in rows} == {OWN}
    told = {row["episode"]: row["instruction"] for row in rows}
    assert sorted(list(told.values()).count(text) for text in set(told.values())) == [4, 4]
    for episode in LatentStore(server.run).episodes(campaign=rows[0]["campaign"]):
        names = ("instruction", "task_instruction", "prompt_mode")
        assert [episode.metadata[name] for name in names] == [told[episode.id], OWN, "other"]
    options = ("--campaign", rows[0]["campaign"], "--permutations", "0", "--output-dir", str(tmp_path / "sweep"))
    assert analysis(["sweep", str(server.run), "--experts", "text_only", *options]) == 0
    found = read_result(tmp_path / "sweep" / f"results_sweep_stepall_text_only_{rows[0]['campaign']}.json").tables
    assert found["cells"]["accuracy"].tolist() == [1.0] * 8  # every layer
    assert set(found["classes"]["label"]) == set(told.values())
    assert found["classes"]["task_id"].isna().tolist() == [True, True]  # their own scenes are not here


@pytest.mark.parametrize(
    ("options", "told", "mode"),
    [
        (("--prompt-mode", "blank"), "", "blank"),
        (("--prompt", "wave"), "wave", "given"),
    ],
)
def test_the_store_and_the_results_say_what_was_told(server, tmp_path, options, told, mode):
    (row,) = rollout(server, tmp_path / "out", "--episodes", "9", *options)
    assert (row["instruction"], row["task_instruction"], row["prompt_mode"]) == (told, OWN, mode)
    episode = LatentStore(server.run).episode(row["episode"])
    assert episode.row.attempt == row["store_attempt"] == 1
    assert (episode.metadata["instruction"], episode.metadata["task_instruction"]) == (told, OWN)
    assert episode.metadata["prompt_mode"] == mode


@pytest.mark.slow
def test_campaigns_with_equal_options_hide_nothing_of_each_other(server, tmp_path):
    before = {episode.campaign for episode in LatentStore(server.run).episodes()}
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--episodes", "5-6", "--label", "equal")
    kept = rollout(server, first, *options)
    rollout(server, second, *options)
    results = first / "episodes.jsonl"
    results.write_text(json.dumps(kept[0]) + "\n")  # as a kill before the last line leaves it
    command = [sys.executable, "-m", "vlascope_sim", "rollout", "--resume", str(first)]
    subprocess.run(command, capture_output=True, timeout=200, check=True)
    by_name = {}
    for folder in (first, second):
        rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        (campaign,) = {row["campaign"] for row in rows}
        by_name[folder.name] = campaign
        assert campaign.startswith("equal-")
        assert {row["episode"] for row in rows} == {e.id for e in LatentStore(server.run).episodes(campaign=campaign)}
    store = LatentStore(server.run)
    new = [episode for episode in store.episodes() if episode.campaign not in before]
    found = [(e.campaign, e.metadata["episode_index"], e.row.attempt, e.status) for e in new]
    assert sorted(found) == sorted([
        (by_name["first"], 5, 1, "sealed"), (by_name["first"], 6, 2, "sealed"),
        (by_name["second"], 5, 1, "sealed"), (by_name["second"], 6, 1, "sealed"),
    ])  # fmt: skip
    assert len(store.select("vlm", campaign=by_name["second"])) == 2
