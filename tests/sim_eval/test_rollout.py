"""The command as a user runs it: real scenes, a real server, and everything that can die on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from vlascope_client import PolicyClient
from vlascope_latents.store import LatentStore

from tests.server.serving.live_server import serve

CAMPAIGN = (
    "--suite", "libero_object", "--tasks", "0", "--episodes", "0-3", "--max-steps", "40", "--stride", "20",
    "--collect-latents", "--experts", "action", "--layers", "0", "--reduction", "mean", "--render", "fast", "--workers", "1",
)  # fmt: skip


def start(*options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "vlascope_sim", "rollout", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rollout(*options: str) -> tuple[int, str, str]:
    process = start(*options)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def rows(output: Path) -> list[dict]:
    file = output / "episodes.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def done(output: Path) -> dict[int, dict]:
    return {row["episode_index"]: row for row in rows(output) if row["status"] == "done"}


def trajectories(output: Path) -> dict[int, str]:
    return {episode: row["trajectory"] for episode, row in sorted(done(output).items())}


def workers(runner: subprocess.Popen) -> list[int]:
    """Processes that a runner has spawned to simulate."""
    try:
        children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def frames(url: str) -> int:
    """That a server has got so far."""
    with PolicyClient(url) as client:
        status = client.status()
    return status.committed + status.pending


def until_captured(url: str, more_than: int, process: subprocess.Popen) -> None:
    """Until an episode has a capture more: then it is under way."""
    until(lambda: frames(url) > more_than, process)


@pytest.fixture(scope="module")
def unbroken(assets, policy_server, tmp_path_factory) -> Path:
    """The campaign, run by two workers without a mishap."""
    output = tmp_path_factory.mktemp("unbroken")
    code, out, err = rollout(
        "--server", policy_server.url, *CAMPAIGN, "--output", str(output), "--workers", "2", "--save-observations"
    )
    assert code == 0, err
    assert str(output / "videos") in out
    assert str(output / "summary.png") in out
    assert re.search(r"at most 8 frames, \d+\.?\d* k?B\n", out)
    return output


def test_a_rollout_leaves_results_videos_and_frames_in_the_store(unbroken, policy_server):
    found = done(unbroken)
    assert sorted(found) == [0, 1, 2, 3]
    first = found[0]
    assert (first["steps"], first["inferences"], first["captures"], first["frames"], first["dropped"]) == (
        40,
        8,
        2,
        2,
        0,
    )
    assert first["success"] is False
    assert first["assets"] == "stand-in"
    assert len(first["latency_ms"]) == 8
    assert len(set(trajectories(unbroken).values())) == 4

    episode = next(
        e for e in LatentStore(policy_server.run).episodes(attempts="all")
        if e.row.episode == first["episode"] and e.row.attempt == first["store_attempt"]
    )  # fmt: skip
    assert (episode.status, episode.success, episode.frames) == ("sealed", False, 2)
    assert [line.timestep for line in episode.lines()] == [0, 20]
    assert episode.row.total_steps == 40
    meta = episode.metadata
    assert (meta["suite"], meta["task_id"], meta["init_state"], meta["seed"]) == (
        "libero_object",
        0,
        0,
        first["noise_seed"],
    )
    assert "annotations/goal_distance" in episode.lines()[0].values
    assert policy_server.run.name == first["run"]

    with av.open(str(unbroken / first["video"])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 8 + 4  # one second more, at four frames a second
    for row in rows(unbroken):
        assert (
            row["video"]
            == f"videos/{row['episode'].partition('+')[2]}-{'success' if row['success'] else 'failure'}.mp4"
        )
    assert len(list((unbroken / "videos").iterdir())) == 4
    with np.load(unbroken / "observations" / "libero_object-task00-episode000.npz") as seen:
        assert seen["image"].shape == (8, 256, 256, 3)
        assert seen["timestep"].tolist() == list(range(0, 40, 5))
        assert seen["actions"].shape == (40, 7)
    summary = json.loads((unbroken / "summary.json").read_text())
    assert (summary["suite"]["episodes"], summary["suite"]["missing"]) == (4, 0)
    provenance = json.loads((unbroken / "provenance.json").read_text())
    assert provenance["server"]["fingerprint"] == first["fingerprint"]
    assert (unbroken / "episodes.parquet").exists()
    with Image.open(unbroken / "summary.png") as picture:
        assert picture.size[0] > 1800


def test_a_runner_that_was_killed_is_resumed_to_the_same_results(unbroken, policy_server, tmp_path):
    runner = start("--server", policy_server.url, *CAMPAIGN, "--output", str(tmp_path))
    until(lambda: len(rows(tmp_path)) == 1, runner)
    orphans = workers(runner)
    runner.kill()
    runner.communicate()
    assert orphans
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline, "a worker outlived its runner"
        time.sleep(0.05)
    assert len(done(tmp_path)) < 4
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"suite": "lib')  # as a kill in the middle of a line leaves it
    code, _, err = rollout("--resume", str(tmp_path))
    assert code == 0, err
    assert len(rows(tmp_path)) == 4
    assert trajectories(tmp_path) == trajectories(unbroken)


def test_a_dead_worker_a_hung_one_and_a_video_that_cannot_be_written(unbroken, policy_server, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for ended in ("success", "failure"):
        (videos / f"libero_object-task00-episode000-{ended}.mp4" / "in the way").mkdir(parents=True)
    before = frames(policy_server.url)
    runner = start("--server", policy_server.url, *CAMPAIGN, "--output", str(tmp_path), "--hang-seconds", "4")

    until_captured(policy_server.url, before + 2, runner)  # both of the first episode
    os.kill(workers(runner)[0], signal.SIGKILL)
    until(lambda: len(done(tmp_path)) == 2, runner)
    until_captured(policy_server.url, frames(policy_server.url), runner)
    os.kill(workers(runner)[0], signal.SIGSTOP)
    _, err = runner.communicate(timeout=90)

    assert runner.returncode == 0, err
    assert trajectories(tmp_path) == trajectories(unbroken)
    assert [(r["episode_index"], r["attempt"], r["status"]) for r in rows(tmp_path)] == [
        (0, 1, "done"), (1, 1, "lost"), (1, 2, "done"), (2, 1, "lost"), (2, 2, "done"), (3, 1, "done"),
    ]  # fmt: skip
    dead, hung = (row["reason"] for row in rows(tmp_path) if row["status"] == "lost")
    assert dead == "worker died with exit code -9"
    assert hung.startswith("worker hung: no sign of life for 4 s")
    full, fine = done(tmp_path)[0], done(tmp_path)[1]
    assert (full["video"], full["files_error"]) == (None, "video: Is a directory")
    assert (tmp_path / fine["video"]).stat().st_size > 1000


def test_a_server_that_dies_and_comes_back_costs_an_attempt(unbroken, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ("--store", str(tmp_path / "runs"), "--deterministic", "--min-free", "1MB", "--port", port)
    output = tmp_path / "out"
    with serve(*options) as first:
        runner = start("--server", first.url, *CAMPAIGN, "--output", str(output), "--reconnect-seconds", "60")
        until_captured(first.url, 2, runner)  # into the second episode
        first.process.kill()
    with serve(*options):
        _, err = runner.communicate(timeout=120)
    assert runner.returncode == 0, err
    lost = [row for row in rows(output) if row["status"] == "lost"]
    assert [(row["episode_index"], row["attempt"]) for row in lost] == [(1, 1)]
    assert lost[0]["reason"].startswith(f"EpisodeInterruptedError: episode {lost[0]['episode']}: interrupted")
    assert trajectories(output) == trajectories(unbroken)
    runs = {row["run"] for row in rows(output) if row["run"]}
    assert len(runs) == 2
    assert done(output)[1]["frames"] == 2


@pytest.mark.slow
def test_of_two_servers_one_dies_and_the_other_takes_its_episodes(unbroken, tmp_path):
    options = ("--deterministic", "--min-free", "1MB", "--store")
    output = tmp_path / "out"
    with serve(*options, str(tmp_path / "a")) as dies, serve(*options, str(tmp_path / "b")) as stays:
        runner = start(
            "--server", dies.url, stays.url, *CAMPAIGN, "--output", str(output), "--workers", "2",
            "--reconnect-seconds", "60",
        )  # fmt: skip
        until_captured(stays.url, 0, runner)
        until_captured(dies.url, frames(dies.url), runner)  # in the middle of an episode
        dies.process.kill()
        _, err = runner.communicate(timeout=120)
        assert runner.returncode == 0, err
        (lost,) = (row for row in rows(output) if row["status"] == "lost")
        assert lost["reason"].startswith(f"EpisodeInterruptedError: episode {lost['episode']}: interrupted")
        found = done(output)
        again = found[lost["episode_index"]]
        assert (again["attempt"], again["run"], again["frames"]) == (2, stays.run.name, 2)
        assert sorted(found) == [0, 1, 2, 3]
        assert trajectories(output) == trajectories(unbroken)


def test_a_dry_run_says_what_it_takes_and_writes_nothing(assets, policy_server, tmp_path):
    output = tmp_path / "out"
    code, out, err = rollout(
        "--server", policy_server.url, "--suite", "libero_goal", "--tasks", "0,3", "--collect-latents", "--stride", "10",
        "--dry-run", "--deterministic-check", "--output", str(output),
    )  # fmt: skip
    assert code == 0, err
    assert "20 episodes, at most 6000 steps; at most 600 frames" in out
    assert re.search(r"\nsimulation: (less than a|about \d+) minutes? with 2 workers", out)
    assert re.search(r"\npolicy: (less than a|about \d+) minutes? on 1 server, .*\n  \(measured: \d+ ms each\)\n", out)
    assert err.count("{") == 0, "no configuration on the screen"
    assert "assets stand-in" in out
    assert not output.exists()


def test_a_dry_run_of_what_is_there_already_says_what_is_missing(unbroken, policy_server, tmp_path):
    code, out, err = rollout("--resume", str(unbroken), "--dry-run", "--server", "ws://127.0.0.1:1", policy_server.url,
                             "--connect-seconds", "2")  # fmt: skip
    assert code == 0, err
    assert "nothing to run: every episode has its result" in out
    (line,) = (line for line in err.splitlines() if "ws://127.0.0.1:1" in line and "going on" in line)
    assert line.startswith("WARNING no answer within 2 s (")
    assert line.endswith(f"; going on with {policy_server.url}")
    half = tmp_path / "half"
    shutil.copytree(unbroken, half)
    lines = (half / "episodes.jsonl").read_text().splitlines(keepends=True)
    (half / "episodes.jsonl").write_text("".join(lines[:3]))
    before = sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*"))
    code, out, err = rollout("--resume", str(half), "--dry-run")
    assert code == 0, err
    assert "\n1 episode, at most 40 steps; at most 2 frames" in out
    assert sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "libero_object", "--collect-latents", "--stride", "7"), "the nearest that work: 5 or 10"),
        (("--suite", "libero_object", "--tasks", "8-10"), "task 10: libero_object has 0-9"),
        (("--suite", "libero_object", "--replan-steps", "11"), "has chunks of 10 actions; use at most that"),
        (("--suite", "libero_object", "--assets", "."), "assets"),
        (("--suite", "libero_object", "--collect-latents", "--layers", "40", "--episodes", "0"), "layers"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_code_2(assets, policy_server, tmp_path, options, message):
    code, _, err = rollout("--server", policy_server.url, *options, "--output", str(tmp_path / "out"))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
