"""`scripts/evaluate.py`: what a policy can do and whether it listens, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


def evaluate(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_conditions_are_run_and_counted(tmp_path):
    asked = ("--out", str(tmp_path / "found"), "--only", "shipped,told,blank", "--tasks", "0", "--episodes", "40-41")
    asked = (*asked, "--max-steps", "20", "--workers", "1")
    done = evaluate("tiny", *asked)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text())["conditions"]
    shipped, told, blank = found["shipped"], found["told"], found["blank"]
    assert {row["init_state"] for row in shipped["episodes"]} == {40, 41}
    assert shipped["count"] == sum(row["success"] for row in shipped["episodes"])
    for row in told["episodes"]:
        assert "alphabet soup" not in row["instruction"]
        assert row["told_object"].rsplit("_", 1)[0].replace("_", " ") in row["instruction"]
    assert told["count"] == sum(row["lifted_first"] == row["told_object"] for row in told["episodes"])
    assert {row["instruction"] for row in blank["episodes"]} == {""}
    assert blank["count"] == sum(row["lifted_first"] == "alphabet_soup_1" for row in blank["episodes"])
    assert (blank["goal"], blank["chance"]) == (None, round(1 / 6, 3))
    assert shipped["campaign"]["seed"] == 1007
    assert "| told another object of the scene: lifted first | 2 |" in done.stdout
    # what is done is not done again, and a folder is not written over
    again = evaluate("tiny", *asked, "--resume")
    assert again.returncode == 0
    assert json.loads((tmp_path / "found" / "evaluation.json").read_text())["conditions"] == found
    refused = evaluate("tiny", *asked)
    assert refused.returncode == 1
    assert "exists; expected a new folder, or --resume" in refused.stderr
    for policy, episodes, said in (("tiny", "40", "ask the same"), ("tiny-drawn", "40-41", "has results of")):
        other = evaluate(policy, *asked, "--resume", "--episodes", episodes)
        assert other.returncode == 1
        assert said in other.stderr
