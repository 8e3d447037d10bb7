"""The main job as `make demo` does it, in small: simulation, server, store, probe, sweep."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from vlascope_latents.store import LatentStore

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


def demo(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=500, check=False)


def test_the_main_job_end_to_end(tmp_path):
    out = tmp_path / "demo"
    done = demo("--out", str(out), "--tasks", "0-1", "--episodes", "0-1", "--max-steps", "15")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    store = LatentStore(out / "runs")
    episodes = {episode.id: episode for episode in store.episodes()}
    rows = [json.loads(line) for line in (out / "rollouts" / "episodes.jsonl").read_text().splitlines()]
    assert len(rows) == len(episodes) == 4
    for row in rows:
        episode = episodes[row["episode"]]
        assert (row["run"], row["frames"], row["dropped"]) == (episode.run, episode.frames, 0)
        assert (episode.status, episode.success, row["success"]) == ("sealed", False, False)
        assert episode.metadata["task_id"] == row["task_id"]
        assert (out / "rollouts" / row["video"]).stat().st_size > 0
    timesteps = store.select("vlm", layers=0, span="text").labels["timestep"]
    assert sorted(set(timesteps.tolist())) == [0, 10]
    cells = pd.read_parquet(next((out / "sweep").glob("cells_*.parquet")))
    assert {"vlm", "text_only", "action"} == set(cells["expert"])
    # what the end of the output lists is there
    listed = re.findall(r"^  (/\S+) +\S", done.stdout[done.stdout.index("What it made:") :], re.MULTILINE)
    assert len(listed) >= 7
    assert all(Path(path).exists() for path in listed)


def test_a_failure_is_no_success(tmp_path):
    done = demo("--out", str(tmp_path / "demo"), "--checkpoint", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "the server did not start" in done.stderr
    assert "no such file or folder" in (tmp_path / "demo" / "server.log").read_text()
    again = demo("--out", str(tmp_path / "demo"))
    assert again.returncode == 1
    assert "exists" in again.stderr
