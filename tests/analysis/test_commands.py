"""`vlascope-analysis` end to end on a run in which one layer and denoise step know the task."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from vlascope_analysis.analyses.sweep import compute as sweep_module
from vlascope_analysis.commands import main
from vlascope_latents import CaptureSpec

from tests.analysis.stores import INSTRUCTIONS, direction, make_run, task_at

LAYER, STEP = 1, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sweep_module, "BLOCK_BYTES", 8192)  # several blocks of layers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root, task_at(LAYER, STEP), tasks=4, episodes=5)
    return root


def run(command: str, runs, out, *options: str) -> int:
    return main([command, str(runs), "--output-dir", str(out), "--bootstrap-samples", "200", *options])


def check_picture(path) -> None:
    """A PNG that is not blank."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    ("options", "stem", "accuracy"),
    [
        (["--expert", "vlm", "--layer", "1", "--rollout-step", "10", "--task-range", "0", "4", "--episode-range", "0", "5"],
         "vlm_layer1_step10_tasks0to4_episodes0to5", 1.0),
        (["--expert", "action", "--layer", "1", "--denoise-step", "2"], "action_layer1_stepall_denoise2", 1.0),
        (["--expert", "action", "--layer", "1", "--rollout-step", "0"], "action_layer1_step0", None),
    ],
)  # fmt: skip
def test_probe(runs, tmp_path, capsys, options, stem, accuracy):
    assert (
        run("probe", runs, tmp_path, *options, "--permutations", "5", "--learning-rate", "0.02", "--num-epochs", "40")
        == 0
    )
    files = {f"results_{stem}.json", f"predictions_{stem}.parquet", f"summary_{stem}.txt", f"curve_{stem}.png",
             f"confusion_{stem}.png"}  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == files
    result = json.loads((tmp_path / f"results_{stem}.json").read_text())
    scores = result["scores"]
    if accuracy is None:  # the last denoise step is the default, and knows nothing
        assert result["denoise_step"] == 3
        assert scores["accuracy_low"] <= 0.25
    else:
        assert scores["accuracy"] == accuracy
        assert scores["accuracy_low"] > 0.8
    predictions = pd.read_parquet(tmp_path / f"predictions_{stem}.parquet")
    assert predictions["correct"].to_numpy().mean() == pytest.approx(scores["accuracy"])
    summary = (tmp_path / f"summary_{stem}.txt").read_text()
    assert f"Accuracy: {scores['accuracy']:.4f}" in summary
    assert f"Number of Samples: {scores['frames']}" in summary
    assert "Label: instruction: what the policy was told" in summary
    for number, instruction in enumerate(INSTRUCTIONS[:4]):
        assert f"  {number}: {instruction}" in summary
        row = result["instructions"][number]
        assert (row["number"], row["instruction"], row["task_id"]) == (number, instruction, number)
    assert result["config"]["seed"] == 42
    assert result["data"]["runs"][0]["model"] == {"fingerprint": "f00d"}
    assert len(result["data"]["episodes"]) == 20
    assert result["versions"]["jax"]
    assert "git_revision" in result
    for name in files:
        if name.endswith(".png"):
            check_picture(tmp_path / name)
    captured = capsys.readouterr()
    assert summary in captured.out
    assert not captured.err.startswith("{")
    assert run("probe", runs, tmp_path / "none", "--expert", "vlm", "--layer", "1", "--print-config") == 0
    shown = json.loads(capsys.readouterr().out)["probe"]
    assert (shown["expert"], shown["layer"], shown["training"]["batch_size"]) == ("vlm", 1, 32)
    assert not (tmp_path / "none").exists()


def test_sweep_finds_the_cell_and_nothing_else(runs, tmp_path, capsys):
    assert run("sweep", runs, tmp_path, "--permutations", "39") == 0
    table = pd.read_parquet(tmp_path / "sweep_stepall.parquet").set_index(["expert", "layer", "denoise_step"])
    assert len(table) == 3 + 3 + 3 * 4
    known = [("vlm", LAYER, pd.NA), ("text_only", LAYER, pd.NA), ("action", LAYER, STEP)]
    knows = table.index.isin(known)
    assert knows.sum() == 3
    accuracy, p_cell, p_best = (table[name].to_numpy() for name in ("accuracy", "p_value", "p_value_best"))
    assert (accuracy[knows] > 0.95).all()
    assert (p_best[knows] == 1 / 40).all()
    assert (accuracy[~knows] < 0.55).all()
    assert abs(accuracy[~knows].mean() - 0.25) < 0.08
    assert (p_best[~knows] > 0.1).all()
    assert (p_best >= p_cell).all()
    result = json.loads((tmp_path / "sweep_stepall.json").read_text())
    assert len(result["cells"]) == 18
    assert result["cells"][0]["denoise_step"] is None
    check_picture(tmp_path / "heatmap_stepall.png")
    assert "best of many cells" in (tmp_path / "summary_sweep_stepall.txt").read_text()
    assert "action" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_files(runs, tmp_path):
    options = ["--experts", "action", "--permutations", "39"]
    tables = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run("sweep", runs, tmp_path / name, *options, "--seed", seed) == 0
        tables.append(pd.read_parquet(tmp_path / name / "sweep_stepall_action.parquet"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--expert", "vlm", "--layer", "9"], "layer 9 was not captured; captured: [0, 1, 2]"),
        (["--expert", "vlm"], "--layer: name one; captured: 0-2"),
        (["--expert", "action", "--layer", "0", "--denoise-step", "9"], "denoise_step 9 was not captured"),
        (["--expert", "vlm", "--layer", "0", "--rollout-step", "3"], "rollout step 3; found 0, 10"),
        (["--expert", "vlm", "--layer", "0", "--task-range", "0", "10"], "tasks 4-9 are not there; found tasks 0-3"),
        (["--expert", "vlm", "--layer", "0", "--episode-range", "4", "6"], "task 0 lacks episodes 5"),
        (["--expert", "vlm", "--layer", "0", "--split", "task"], "4 instructions: needs at least 6"),
        (["--expert", "vlm", "--layer", "0", "--num-epochs", "0"], "--num-epochs 0"),
        (
            ["--expert", "vlm", "--layer", "0", "--component", "x_t"],
            "vlm/x_t was not captured; captured: vlm/hidden_states, action/",
        ),
    ],
)
def test_errors_are_one_line_that_lists_what_exists(runs, tmp_path, capsys, options, message):
    assert run("probe", runs, tmp_path / "out", *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("vlascope-analysis: ")
    assert message in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_probe_of_each_campaign_by_its_own_labels(tmp_path):
    """The frames know what was told, and not what the scene's task says."""

    def shifted(task: int, number: int) -> dict:
        return {"instruction": INSTRUCTIONS[(task + number) % 4], "task_instruction": INSTRUCTIONS[task]}

    def told(path, array, moment) -> None:
        by = 0 if len(list((tmp_path / "runs").iterdir())) == 1 else moment.episode
        array += 2 * direction(1, (moment.task + by) % 4, width=array.shape[-1])

    spec = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), dtype="float32")
    for campaign, metadata in (("own", lambda *_: {}), ("other", shifted)):
        make_run(tmp_path / "runs", told, episodes=8, timesteps=(0,), spec=spec, campaign=campaign, metadata=metadata)
    probes = ["--expert", "text_only", "--layer", "0", "--permutations", "0", "--learning-rate", "0.02"]
    for campaign in (["--campaign", "own"], ["--campaign", "other"], []):
        assert run("probe", tmp_path / "runs", tmp_path / "out", *probes, *campaign) == 0
    # of both together, eight are the same scene and were told the same
    for stem, units, warned in (("stepall_own", 32, 0), ("stepall_other", 32, 0), ("stepall", 56, 1)):
        result = json.loads((tmp_path / "out" / f"results_text_only_layer0_{stem}.json").read_text())
        scores = result["scores"]
        assert (scores["accuracy"], scores["episodes"], scores["test_units"]) == (1.0, 64 if warned else 32, units)
        assert sum("64 episodes count as 56" in warning for warning in result["warnings"]) == warned
        assert sum("several campaigns: other, own" in warning for warning in result["warnings"]) == warned
        campaigns = {episode["campaign"] for episode in result["data"]["episodes"]}
        assert campaigns == ({"own", "other"} if warned else {stem.removeprefix("stepall_")})


@pytest.mark.parametrize("command", ["probe", "sweep"])
def test_help_is_quick_and_documents_every_option(command):
    code = (
        "import sys; from vlascope_analysis.commands import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "optax", "torch", "numpy", "pandas", "matplotlib"} & set(done.stderr.split())
    for option in ("--task-range", "--rollout-step", "--component", "--split", "--seed", "--output-dir", "--log-level"):
        assert option in done.stdout
    assert ("--learning-rate" in done.stdout) == ("--layer" in done.stdout) == (command == "probe")


def test_results_keep_every_option_by_its_name(runs, tmp_path):
    options = ["--expert", "vlm", "--layer", "1", "--permutations", "0", "--num-epochs", "2", "--suite", "libero_goal"]
    assert run("probe", runs, tmp_path, *options) == 0
    result = json.loads((tmp_path / "results_vlm_layer1_stepall_libero_goal.json").read_text())
    assert result["config"] == {
        "store": str(runs), "rollout_step": [], "task_range": None, "episode_range": None, "run_name": None,
        "campaign": None, "suite": "libero_goal", "interrupted": False, "allow_missing": False,
        "component": "hidden_states", "pool": "mean", "encoder": "minilm", "split": "episode", "folds": None,
        "test_fraction": 0.2, "validation_fraction": 0.2, "permutations": 0, "bootstrap_samples": 200,
        "confidence": 0.95, "seed": 42, "output_dir": str(tmp_path), "log_level": "info", "expert": "vlm", "layer": 1,
        "denoise_step": None, "span": None, "learning_rate": 0.001, "num_epochs": 2, "batch_size": 32, "patience": 10,
    }  # fmt: skip


def test_a_result_makes_itself_again(runs, tmp_path):
    options = ["--experts", "action", "--permutations", "3", "--task-range", "0", "4", "--seed", "5"]
    assert run("sweep", runs, tmp_path / "a", *options) == 0
    stem = "sweep_stepall_action_tasks0to4"
    file = tmp_path / "a" / f"{stem}.json"
    assert main(["sweep", "--config", str(file), "--output-dir", str(tmp_path / "b")]) == 0
    first, again = (json.loads((tmp_path / folder / f"{stem}.json").read_text()) for folder in "ab")
    assert again["cells"] == first["cells"]
    assert again["config"] == {**first["config"], "output_dir": str(tmp_path / "b")}


def test_a_file_may_say_what_to_probe(runs, tmp_path, capsys):
    file = tmp_path / "probe.yaml"
    file.write_text(
        f"store: {runs}\nexpert: vlm\nlayer: 0\nnum-epochs: 2\npermutations: 0\ntask_range: [0, 4]\nbootstrap_samples: 200\n"
    )
    assert main(["probe", "--config", str(file), "--layer", "1", "--output-dir", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "results_vlm_layer1_stepall_tasks0to4.json").read_text())
    config = result["config"]
    assert (config["layer"], config["num_epochs"], config["task_range"], config["expert"]) == (1, 2, [0, 4], "vlm")
    capsys.readouterr()
    file.write_text("experts: [vlm]\n")
    assert main(["probe", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"vlascope-analysis: {file}: field 'experts' is unknown; the fields are ")


@pytest.mark.parametrize("command", ["probe", "sweep"])
def test_episodes_without_task_or_instruction_are_no_class_and_are_named(tmp_path, caplog, command):
    runs, spec = tmp_path / "runs", CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), dtype="float32")
    make_run(runs, timesteps=(0,), spec=spec, campaign="own")
    nothing = dict.fromkeys(("suite", "task_id", "task_name", "episode_index", "task_instruction", "instruction"))
    for name, told in (("client", {"instruction": "wave"}), ("silent", {})):
        make_run(runs, tasks=1, episodes=1, timesteps=(0,), spec=spec, campaign=name, suite="robot",
                 metadata=lambda *_, told=told: {**nothing, **told})  # fmt: skip
    chosen = ["--expert", "vlm", "--layer", "0", "--num-epochs", "2"] if command == "probe" else ["--experts", "vlm"]
    assert run(command, runs, tmp_path / "out", "--permutations", "0", *chosen) == 0
    (file,) = (tmp_path / "out").glob("*.json")
    result = json.loads(file.read_text())
    assert [row["instruction"] for row in result["instructions"]] == list(INSTRUCTIONS[:4])
    assert {episode["campaign"] for episode in result["data"]["episodes"]} == {"own"}
    for name in ("client+robot-task0-ep0", "silent+robot-task0-ep0"):
        assert sum(name in warning for warning in result["warnings"]) == 1
        assert name in caplog.text


def test_no_store_is_one_line(tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
