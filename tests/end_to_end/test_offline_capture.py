"""What rollouts saw and demonstrations show, captured without a robot: the same bits, or others where something differs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vlascope_latents.store import LatentStore
from vlascope_server.capturing.observation_file import ObservationFile

from tests.server.capturing.processes import committed, finished, kill_at, start
from tests.server.capturing.stores import assert_same_episode, assert_same_runs, differing, only_run
from tests.server.serving.live_server import serve

SPEC = {
    "components": ["hidden_states", "attention", "mlp_activation", "k", "final_hidden", "x_t", "v_t"],
    "layers": [0, 7], "spans": ["text", "action"],
}  # fmt: skip


def simulate(*options: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlascope_sim", *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a campaign of three episodes with saved observations, and the run that its captures are in."""
    folder = tmp_path_factory.mktemp("rollouts")
    spec, output = folder / "spec.json", folder / "seen"
    spec.write_text(json.dumps(SPEC))
    with serve("--store", str(folder / "runs"), "--deterministic", "--min-free", "1MB") as live:
        simulate(
            "rollout", "--server", live.url, "--suite", "libero_object", "--tasks", "0,1", "--episodes", "0-1", "--max-steps",
            "20", "--stride", "10", "--collect-latents", "--capture-spec", str(spec), "--render", "fast", "--video", "steps",
            "--workers", "1", "--save-observations", "--output", str(output),
        )  # fmt: skip
        run = live.run
    return output, run


def capture(*options: object) -> str:
    return finished(start(*options, "--min-free", "1MB"))


def test_with_everything_as_it_was_the_same_bits_are_stored(rollouts, tmp_path):
    seen, served = rollouts
    out = capture("--observations", seen, "--store", tmp_path, "--checkpoint", "tiny", "--batch-size", "1")
    assert "other than when" not in out
    run = only_run(tmp_path)
    theirs = {episode.row.name: episode for episode in LatentStore(served).episodes()}
    ours = {episode.row.name: episode for episode in LatentStore(run).episodes()}
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == 4
    for name, episode in ours.items():
        assert episode.campaign != theirs[name].campaign
        assert_same_episode(episode, theirs[name], said=False)
        assert set(episode.tensors()) >= {"vlm/attention", "action/v_t", "vlm/final_hidden"}
        assert {"actions", "state", "noise_seed", "prompt_mask", "annotations/goal_distance"} <= set(
            episode.lines()[0].values
        )
        source = episode.metadata["captured_from"]
        assert {k: v for k, v in episode.metadata.items() if k != "captured_from"} == theirs[name].metadata
        assert (source["stored"]["run"], source["episode"]) == (served.name, theirs[name].id)
        assert source["policy"]["deterministic"] is True
    # every label but those that say which capture it is
    tables = [LatentStore(path).frames().drop(columns=["run", "campaign", "episode"]) for path in (run, served)]
    assert tables[0].equals(tables[1][tables[0].columns])
    assert set(tables[0].columns) == set(tables[1].columns)
    models = [json.loads((path / "run.json").read_text()) for path in (run, served)]
    assert models[0]["layout"] == models[1]["layout"]
    for name in ("fingerprint", "checkpoint", "configuration", "record", "denoise_steps", "robot", "versions"):
        assert models[0]["model"][name] == models[1]["model"][name]


def test_what_is_saved_is_what_was_sent(rollouts):
    """Pictures of every step were drawn for the video; only those that the policy inferred on are kept, as it was sent them."""
    seen, served = rollouts
    for row in rows(seen):
        file = ObservationFile.open(seen / "observations" / f"{row['episode'].partition('+')[2]}.npz")
        assert file.timestep.tolist() == [0, 5, 10, 15]
        assert file.captured.tolist() == [True, False, True, False]
        assert len(file.seed) == row["inferences"] == 4
        read = file.read()
        assert read["image"].shape == (4, 256, 256, 3)
        assert len({picture.tobytes() for picture in read["image"]}) == 4
        state = LatentStore(served).select("vlm", episodes=[row["episode"]]).values("state")
        np.testing.assert_array_equal(state, read["state"][[0, 2]].astype(np.float32))
        seeds = LatentStore(served).select("vlm", episodes=[row["episode"]]).values("noise_seed")
        np.testing.assert_array_equal(seeds, file.seed[[0, 2]])


def test_under_another_prompt_other_bits_are_stored(rollouts, tmp_path):
    seen, served = rollouts
    options = ("--observations", seen, "--store", tmp_path, "--checkpoint", "tiny", "--batch-size", "1")
    out = capture(*options, "--prompt", "close the drawer", "--episodes", "0")
    assert "other than when the observations were saved: the prompt" in out
    theirs = {episode.row.name: episode for episode in LatentStore(served).episodes()}
    ours = LatentStore(only_run(tmp_path)).episodes()
    assert len(ours) == 2
    for episode in ours:
        original = theirs[episode.row.name]
        assert differing(episode, original) == set(episode.tensors())
        assert (episode.metadata["instruction"], episode.metadata["prompt_mode"]) == ("close the drawer", "given")
        assert episode.metadata["task_instruction"] == original.metadata["task_instruction"]
        assert [line.values["noise_seed"] for line in episode.lines()] == [
            line.values["noise_seed"] for line in original.lines()
        ]


def test_a_dataset_of_demonstrations_killed_twice_ends_with_what_an_unbroken_capture_ends_with(tmp_path):
    """Two hundred frames of eight demonstrations."""
    data = tmp_path / "demonstrations"
    simulate(
        "demonstrate", "--suite", "libero_object", "--tasks", "0-3", "--episodes", "0-1", "--max-steps", "25",
        "--keep-failures", "--image-size", "64", "--workers", "1", "--output", str(data),
    )  # fmt: skip
    options = (
        "--dataset", data, "--checkpoint", "tiny", "--num-steps", "2", "--batch-size", "3", "--capture",
        '{"layers": [0, 7], "components": ["hidden_states", "v_t"], "spans": ["text", "action"]}', "--min-free", "1MB",
    )  # fmt: skip
    assert "200 frames of 8 episodes" in finished(start(*options, "--store", tmp_path / "unbroken"))
    unbroken, store = only_run(tmp_path / "unbroken"), tmp_path / "runs"
    kill_at(start(*options, "--store", store), store, 40)
    run = only_run(store)
    assert 40 <= committed(store) < 200
    assert "sealed" in {e.status for e in LatentStore(run).episodes(attempts="all")}
    kill_at(start("--resume", run), store, 120)
    assert 120 <= committed(store) < 200
    out = finished(start("--resume", run))
    there = re.search(r"there +(\d+) episodes of them already", out)
    assert there, out
    assert 4 <= int(there[1]) < 8
    assert committed(store) == 200
    assert_same_runs(run, unbroken)
    table = LatentStore(run).frames()
    assert table["timestep"].tolist() == [*range(25)] * 8
    assert len(set(table["task_id"])) == len(set(table["instruction"])) == 4
