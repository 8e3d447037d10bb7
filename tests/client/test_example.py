"""The robot loop of client/examples, against the scripted server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted_server import drop, late

LOOP = Path(__file__).parents[2] / "client/examples/real_robot_loop.py"


def run(server: Any, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(LOOP),
        "--server",
        server.url,
        "--rate",
        "200",
        "--steps",
        "12",
        "--dry-run",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_captures_every_nth_inference(server: Any) -> None:
    done = run(server, "--replan-steps", "3", "--capture-every", "2", "--episodes", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    campaign = lines.pop(0).removeprefix("captures are kept as campaign ")
    assert [line.split(":")[0] for line in lines] == ["real-0000", "real-0001"]
    assert all(
        line.startswith(f"real-000{n}: 12 steps, ") and line.endswith("; 2 frames kept") for n, line in enumerate(lines)
    )
    first = [
        m for m in server.messages if m.get("episode", {}).get("id") == f"{campaign}+real-0000" and "request" not in m
    ]
    assert [m["timestep"] for m in first] == [0, 3, 6, 9]
    assert [m.get("collect_latents", False) for m in first] == [True, False, True, False]
    assert [m["annotations"]["seconds"] for m in first if "annotations" in m] == pytest.approx([0, 6 / 200])


def test_each_invocation_is_a_campaign_of_its_own(server: Any) -> None:
    for prompt in ("open the drawer", "close the drawer"):
        done = run(server, "--capture-every", "1", "--prompt", prompt)
        assert done.returncode == 0, done.stderr
    told = {}
    for message in server.messages:
        if message.get("collect_latents"):
            told.setdefault(message["episode"]["id"], set()).add(message["prompt"])
    campaigns = {episode_id.partition("+")[0] for episode_id in told}
    assert {episode_id.partition("+")[2] for episode_id in told} == {"warm-up", "real-0000"}
    assert len(campaigns) == 2
    assert len(told) == 4
    assert all(len(prompts) == 1 for prompts in told.values())


@pytest.mark.parametrize("options", [(), ("--capture-every", "1")], ids=["plain", "captured"])
def test_lost_connection_ends_the_episode_and_it_is_run_again(server: Any, options: tuple[str, ...]) -> None:
    answer = late(0)
    warm_up = [answer] * (3 if options else 1)
    server.script.extend([*warm_up, answer, drop])
    done = run(server, *options)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[-2:]
    assert first.startswith("real-0000, attempt 1 of 3: ")
    assert second.startswith("real-0000: 12 steps")


def test_late_policy_stops_the_robot(server: Any) -> None:
    answer = late(0)
    server.script.extend([answer, answer, late(0.6)])
    done = run(server, "--deadline", "0.3", "--attempts", "1")
    assert done.returncode == 1
    assert "sent no reply within 0.3 s" in done.stdout


def test_wrong_robot(server: Any) -> None:
    server.metadata = {**server.metadata, "robot": "aloha", "action_dim": 14}
    done = run(server)
    assert done.returncode == 2
    assert "robot: expected 'libero', found 'aloha'; action_dim: expected 7, found 14" in done.stdout
