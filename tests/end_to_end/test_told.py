"""Policies that are told something else than their scene's task: the store says what was told, and probes read that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from vlascope_analysis.commands import main as analysis
from vlascope_latents.store import LatentStore

from tests.server.serving.live_server import LiveServer, serve

OWN = "pick up the alphabet soup and place it in the basket"


def rollout(server: LiveServer, output: Path, *options: str) -> list[dict]:
    """Runs the command; the rows of its results."""
    command = [
        sys.executable, "-m", "vlascope_sim.commands", "rollout", "--server", server.url, "--suite", "libero_object",
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
    for episode in LatentStore(server.run).episodes():
        names = ("instruction", "task_instruction", "prompt_mode")
        assert [episode.metadata[name] for name in names] == [told[episode.id], OWN, "other"]
    options = ("--permutations", "0", "--output-dir", str(tmp_path / "sweep"))
    assert analysis(["sweep", str(server.run), "--experts", "text_only", *options]) == 0
    found = json.loads((tmp_path / "sweep" / "sweep_stepall_text_only.json").read_text())
    assert [cell["accuracy"] for cell in found["cells"]] == [1.0] * 8  # every layer
    assert {row["instruction"] for row in found["instructions"]} == set(told.values())
    assert [row["task_id"] for row in found["instructions"]] == [None, None]  # their own scenes are not here


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
    episode = LatentStore(server.run).episode(row["episode"], attempt=row["store_attempt"])
    assert (episode.metadata["instruction"], episode.metadata["task_instruction"]) == (told, OWN)
    assert episode.metadata["prompt_mode"] == mode
