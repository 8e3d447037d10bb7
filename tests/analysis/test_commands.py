"""`vlascope-analysis` end to end on a run in which one layer and denoise step know the task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from vlascope_analysis.analyses.sweep import compute as sweep_module
from vlascope_analysis.commands import main
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.results import read_result
from vlascope_latents import COMPONENTS, Blocks, CaptureSpec, ModelLayout, Span, transformer

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
    return main([command, str(runs), "--output-dir", str(out), *options])


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
    (scores,) = result["tables"]["scores"]
    if accuracy is None:  # the last denoise step is the default, and knows nothing
        assert result["about"]["Denoise Step"] == 3
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
        row = result["tables"]["classes"][number]
        assert (row["number"], row["label"], row["task_id"]) == (number, instruction, number)
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
    table = pd.read_parquet(tmp_path / "cells_sweep_stepall.parquet").set_index(["expert", "layer", "denoise_step"])
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
    result = json.loads((tmp_path / "results_sweep_stepall.json").read_text())
    assert set(result["tables"]) == {"baselines", "classes"}
    assert result["files"]["cells"] == "cells_sweep_stepall.parquet"
    check_picture(tmp_path / "heatmap_sweep_stepall.png")
    assert "best of many cells" in (tmp_path / "summary_sweep_stepall.txt").read_text()
    assert "action" in capsys.readouterr().out


def test_experts_of_any_policy_are_probed_by_their_own_names(tmp_path, capsys):
    reader = transformer("reader", Blocks(3, 20, 24, 2, 1, 8), (Span("words", 0, 5),))
    layout = ModelLayout(
        (reader, transformer("hand", Blocks(2, 8, 12, 2, 1, 4), (Span("slot", 0, 2),), sees=(reader,)))
    )

    def fill(path, array, moment):
        if path == "reader/hidden_states":
            array[1] += 2 * direction(1, moment.task, width=array.shape[-1])

    make_run(tmp_path / "runs", fill, layout=layout, masks=False)
    options = [
        str(tmp_path / "runs"),
        "--permutations",
        "19",
        "--encoder",
        "onehot",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    assert main(["sweep", *options]) == 0
    cells = read_result(next((tmp_path / "out").glob("results_sweep_*.json"))).tables["cells"]
    assert cells[["expert", "layer"]].values.tolist() == [
        ["reader", 0],
        ["reader", 1],
        ["reader", 2],
        ["hand", 0],
        ["hand", 1],
    ]
    accuracy = cells["accuracy"].tolist()
    assert np.argmax(accuracy) == 1
    assert accuracy[1] > 0.9
    assert main(["sweep", *options, "--experts", "hand"]) == 0
    capsys.readouterr()
    assert main(["sweep", *options, "--experts", "vlm"]) == 2
    assert (
        "vlm/hidden_states was not captured; captured: reader/hidden_states, hand/hidden_states"
        in capsys.readouterr().err
    )
    assert main(["sweep", *options, "--component", "x_t"]) == 2
    assert (
        "x_t of no expert was captured; captured: reader/hidden_states, hand/hidden_states; choose"
        in capsys.readouterr().err
    )


def test_the_same_seed_gives_the_same_files(runs, tmp_path):
    options = ["--experts", "action", "--permutations", "39"]
    tables = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run("sweep", runs, tmp_path / name, *options, "--seed", seed) == 0
        tables.append(pd.read_parquet(tmp_path / name / f"cells_sweep_stepall_action_seed{seed}.parquet"))
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
    # of both together, two episodes begin from each scene
    for stem, units, warned in (("stepall_own", 32, 0), ("stepall_other", 32, 0), ("stepall", 32, 1)):
        result = json.loads((tmp_path / "out" / f"results_text_only_layer0_{stem}.json").read_text())
        (scores,) = result["tables"]["scores"]
        assert scores["accuracy"] == pytest.approx(1)
        assert (scores["episodes"], scores["test_units"]) == (64 if warned else 32, units)
        assert sum("64 episodes begin from 32 initial states" in warning for warning in result["warnings"]) == warned
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
    for option in (
        "--task-range",
        "--label",
        "--where",
        "--rollout-step",
        "--component",
        "--split",
        "--seed",
        "--output-dir",
        "--log-level",
    ):
        assert option in done.stdout
    assert ("--learning-rate" in done.stdout) == ("--layer" in done.stdout) == (command == "probe")


def test_every_component_is_in_the_help_and_in_the_documents(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    told = re.sub(r"[^a-z_]+", " ", capsys.readouterr().out.partition("--component")[2].partition("--pool")[0]).split()
    docs = Path(__file__).parents[2] / "docs"
    row = next(line for line in (docs / "probing.md").read_text().splitlines() if line.startswith("| `--component` |"))
    table = (docs / "model.md").read_text().partition("| component | what it is |")[2].partition("\n\n")[0]
    for name in COMPONENTS:
        assert name in told
        assert f"`{name}`" in row
        assert f"`{name}`" in table


def test_results_keep_every_option_by_its_name(runs, tmp_path):
    options = ["--expert", "vlm", "--layer", "1", "--permutations", "0", "--num-epochs", "2", "--suite", "libero_goal"]
    assert run("probe", runs, tmp_path, *options) == 0
    result = json.loads((tmp_path / "results_vlm_layer1_stepall_libero_goal.json").read_text())
    assert result["config"] == {
        "store": str(runs), "rollout_step": [], "task_range": None, "episode_range": None, "run_name": None,
        "campaign": None, "suite": "libero_goal", "interrupted": False, "allow_missing": False, "exclude_episodes": [],
        "component": "hidden_states", "frames": "common", "pool": "mean", "label": "instruction", "encoder": "minilm",
        "split": None, "where": None, "control_run": None, "folds": None,
        "test_fraction": 0.2, "validation_fraction": 0.2, "permutations": 0,
        "confidence": 0.95, "seed": 42, "output_dir": str(tmp_path), "log_level": "info", "expert": "vlm", "layer": 1,
        "denoise_step": None, "span": None, "learning_rate": 0.001, "num_epochs": 2, "batch_size": 32, "patience": 0.3,
    }  # fmt: skip


def test_a_result_makes_itself_again(runs, tmp_path):
    options = ["--experts", "action", "--permutations", "3", "--task-range", "0", "4", "--seed", "5"]
    assert run("sweep", runs, tmp_path / "a", *options) == 0
    file = tmp_path / "a" / "results_sweep_stepall_action_tasks0to4_seed5.json"
    assert main(["sweep", "--config", str(file), "--output-dir", str(tmp_path / "b")]) == 0
    first, again = (read_result(tmp_path / folder / file.name) for folder in "ab")
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])
    assert again.provenance["config"] == {**first.provenance["config"], "output_dir": str(tmp_path / "b")}
    assert first.provenance["command"] == f"vlascope-analysis sweep --config {file.name}"


def test_a_file_may_say_what_to_probe(runs, tmp_path, capsys):
    file = tmp_path / "probe.yaml"
    file.write_text(f"store: {runs}\nexpert: vlm\nlayer: 0\nnum-epochs: 2\npermutations: 0\ntask_range: [0, 4]\n")
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
    (file,) = (tmp_path / "out").glob("results_*.json")
    result = json.loads(file.read_text())
    assert [row["label"] for row in result["tables"]["classes"]] == list(INSTRUCTIONS[:4])
    assert {episode["campaign"] for episode in result["data"]["episodes"]} == {"own"}
    for name in ("client+robot-task0-ep0", "silent+robot-task0-ep0"):
        assert sum(name in warning for warning in result["warnings"]) == 1
        assert name in caplog.text


def test_no_store_is_one_line(tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_scored_is_named_and_the_rest_is_swept(tmp_path):
    def fill(path: str, array: np.ndarray, moment) -> None:
        task_at(LAYER, STEP)(path, array, moment)
        if path == "vlm/hidden_states":
            array[0] = 3.0
            if (moment.task, moment.episode) == (1, 2):
                array[2] = np.nan

    make_run(tmp_path / "runs", fill, tasks=3, episodes=5, timesteps=(0,))
    assert run("sweep", tmp_path / "runs", tmp_path / "out", "--experts", "vlm", "--permutations", "19") == 0
    result = read_result(tmp_path / "out" / "results_sweep_stepall_vlm.json")
    cells = result.tables["cells"].set_index("layer")
    assert cells["note"].to_dict() == {
        0: "the same in every frame", 1: "", 2: "not finite in episode libero_goal-task1-ep2, timestep 0"
    }  # fmt: skip
    assert cells["accuracy"].isna().to_dict() == {0: True, 1: False, 2: True}
    assert cells["p_value_best"].to_dict()[1] == 1 / 20
    (warning,) = (warning for warning in result.warnings if "2 of 3 cells are not scored" in warning)
    assert "the same in every frame" in warning
    assert "not finite in episode libero_goal-task1-ep2" in warning
    # the remedy that the warning names
    options = ["--experts", "vlm", "--permutations", "0", "--exclude-episodes", "libero_goal-task1-ep2"]
    assert run("sweep", tmp_path / "runs", tmp_path / "again", *options) == 0
    name = "results_sweep_stepall_vlm_withoutlibero_goal-task1-ep2.json"
    again = read_result(tmp_path / "again" / name).tables["cells"]
    assert again["accuracy"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("by", ["timestep", "fraction", "grasp"])
def test_a_sweep_along_time_finds_the_moment(tmp_path, by):
    def fill(path: str, array: np.ndarray, moment) -> None:
        if path == "vlm/hidden_states" and moment.timestep == 20:
            array[LAYER] += 2 * direction(1, moment.task, width=array.shape[-1])

    def values(moment) -> dict:
        return {"actions": np.full((3, 7), 1.0 if moment.timestep >= 20 else -1.0, np.float32)}

    spec = CaptureSpec(experts=("vlm",), dtype="float32")
    make_run(tmp_path / "runs", fill, tasks=4, episodes=5, timesteps=(0, 10, 20), spec=spec, values=values)
    chosen = ["--experts", "vlm", "--by", by, "--parts", "3", "--permutations", "39"]
    assert run("sweep", tmp_path / "runs", tmp_path / "out", *chosen) == 0
    name = f"by_{by}3" if by == "fraction" else f"by_{by}"
    result = read_result(tmp_path / "out" / f"results_sweep_stepall_vlm_{name}.json")
    assert result.about["rollout_step"] == ("common" if by == "timestep" else "all")
    cells = result.tables["cells"]
    last = {"timestep": "20", "fraction": "67-100 %", "grasp": "from the grasp on"}[by]
    assert len(cells) == 3 * (2 if by == "grasp" else 3)
    found = cells.loc[cells["p_value_best"] <= 0.05]
    assert found[["layer", "window"]].to_numpy().tolist() == [[LAYER, last]]
    check_picture(tmp_path / "out" / f"heatmap_sweep_stepall_vlm_{name}.png")


def test_cells_are_compared_in_pairs(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("sweep", runs, out, "--permutations", "0") == 0
    sweep = str(out / "results_sweep_stepall.json")
    assert main(["compare", sweep, "--cells", "vlm:1", "vlm:0", "action:1:2", "--output-dir", str(out)]) == 0
    result = read_result(out / "results_compare_sweep_stepall_vlm.1-vlm.0-action.1.2_accuracy.json")
    table = result.tables["differences"]
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["vlm:1", "vlm:0"], ["vlm:1", "action:1:2"], ["vlm:0", "action:1:2"]
    ]  # fmt: skip
    assert table["differs"].tolist() == [True, False, True]
    assert np.all(table["low_together"] <= table["low"])
    first = table.to_dict("records")[0]
    assert first["difference"] == pytest.approx(first["first_score"] - first["second_score"])
    assert "2 of 3 differences can be told from zero" in capsys.readouterr().out
    check_picture(out / "differences_compare_sweep_stepall_vlm.1-vlm.0-action.1.2_accuracy.png")
    for cells, said in (
        (["vlm:1"], "name at least two cells"),
        (["vlm:9", "vlm:1"], "layer 9 is not there; the sweep has 0-2"),
        (["nobody:1", "vlm:1"], "no such expert; the sweep has action, text_only, vlm"),
        (["vlm:1", "vlm:1"], "vlm:1 stands twice"),
        (["vlm:1@10", "vlm:0"], "the sweep has no windows; make it with --by"),
        (["vlm 1", "vlm:0"], "expected EXPERT:LAYER"),
    ):
        assert main(["compare", sweep, "--cells", *cells, "--output-dir", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert main(["compare", str(out / "nothing.json"), "--cells", "vlm:0", "vlm:1"]) == 2
    assert "nothing.json: cannot be read" in capsys.readouterr().err


def test_two_policies_are_compared_on_the_episodes_that_both_ran(runs, tmp_path, capsys):
    make_run(tmp_path / "other", tasks=4, episodes=4, fingerprint="beef")  # which knows nothing
    out, files = tmp_path / "out", []
    for name, where in (("knows", runs), ("other", tmp_path / "other")):
        assert run("sweep", where, tmp_path / name, "--experts", "vlm", "--permutations", "0") == 0
        files.append(str(tmp_path / name / "results_sweep_stepall_vlm.json"))
    assert main(["compare", *files, "--output-dir", str(out)]) == 0
    (file,) = out.glob("results_compare_*.json")
    result = read_result(file)
    table = result.tables["differences"]
    assert table["differs"].tolist() == [False, True, False]
    assert table["episodes"].tolist() == [16] * 3
    assert table["first"].tolist() == ["first vlm:0", "first vlm:1", "first vlm:2"]
    assert file.name == "results_compare_knows-sweep_stepall_vlm_with_other-sweep_stepall_vlm_accuracy.json"
    assert any("4 episodes of sweep_stepall_vlm have no partner" in warning for warning in result.warnings)
    make_run(tmp_path / "elsewhere", tasks=4, episodes=4, suite="libero_10")
    assert run("sweep", tmp_path / "elsewhere", tmp_path / "third", "--experts", "vlm", "--permutations", "0") == 0
    options = ["--experts", "vlm", "--permutations", "0", "--encoder", "onehot", "--seed", "7"]
    assert run("sweep", tmp_path / "other", tmp_path / "seven", *options) == 0
    seventh = str(tmp_path / "seven/results_sweep_stepall_vlm_onehot_seed7.json")
    assert main(["compare", files[0], seventh, "--output-dir", str(out)]) == 0
    assert "differ in more than their policies: encoder minilm and onehot; seed 42 and 7" in capsys.readouterr().out
    assert main(["compare", files[0], str(tmp_path / "third/results_sweep_stepall_vlm.json")]) == 2
    assert "no episode of one sweep begins from the same initial state" in capsys.readouterr().err


def test_a_result_is_read_as_it_was_written(runs, tmp_path):
    options = ["--expert", "vlm", "--layer", "1", "--permutations", "0", "--num-epochs", "2"]
    assert run("probe", runs, tmp_path, *options) == 0
    file = tmp_path / "results_vlm_layer1_stepall.json"
    result = read_result(file)
    assert (result.analysis, result.name) == ("probe", "vlm_layer1_stepall")
    assert result.tables["classes"]["task_id"].tolist() == [0, 1, 2, 3]
    assert str(result.tables["classes"]["task_id"].dtype) == "Int64"
    assert len(result.tables["predictions"]) == 5 * 40
    (tmp_path / "predictions_vlm_layer1_stepall.parquet").unlink()
    with pytest.raises(AnalysisError, match=r"predictions_vlm_layer1_stepall.parquet is missing or damaged"):
        read_result(file)
    file.write_text("{}")
    with pytest.raises(AnalysisError, match="is no result of an analysis"):
        read_result(file)


def test_another_label_is_chosen_named_and_never_called_an_instruction(tmp_path, capsys):
    def metadata(task: int, number: int) -> dict:
        told = f"object {(task + number) % 3}"
        return {"told_object": told, "instruction": f"take {told}", "prompt_mode": "task" if number > 5 else "crossed"}

    def fill(path: str, array: np.ndarray, moment) -> None:
        array += 2 * direction(1, (moment.task + moment.episode) % 3, width=array.shape[-1])

    spec = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), dtype="float32")
    make_run(tmp_path / "runs", fill, tasks=3, episodes=8, timesteps=(0,), spec=spec, metadata=metadata)
    where = "prompt_mode == 'crossed' and told_object != 'object 9'"
    chosen = ["--label", "told_object", "--where", where, "--permutations", "0"]
    trained = ["--expert", "vlm", "--layer", "0", "--num-epochs", "3"]
    for command, more in (("sweep", ["--experts", "vlm"]), ("probe", trained)):
        assert run(command, tmp_path / "runs", tmp_path / "out", *chosen, *more) == 0
        (file,) = (tmp_path / "out").glob(f"results_*{'sweep' if command == 'sweep' else 'layer0'}*.json")
        assert "told_object_where-prompt_mode-crossed-and-told_object-obje-" in file.name
        result = read_result(file)
        assert result.tables["classes"]["label"].tolist() == ["object 0", "object 1", "object 2"]
        assert result.tables["classes"]["task_id"].isna().tolist() == [True] * 3
        assert (result.provenance["config"]["label"], result.provenance["config"]["encoder"]) == ("told_object", None)
        about = {name.lower(): value for name, value in result.about.items()}
        assert about["label"] == "told object: the object that the policy was told to take"
        summary = file.with_name(f"summary_{result.name}.txt").read_text()
        assert "told object" in summary
        assert "instruction" not in summary.lower()
        assert main([command, "--config", str(file), "--output-dir", str(tmp_path / "again")]) == 0
    sweeps = ["--experts", "vlm", "--permutations", "0", "--where", "prompt_mode == 'crossed'"]
    assert run("sweep", tmp_path / "runs", tmp_path / "own", *sweeps) == 0
    files = [str(next((tmp_path / name).glob("results_sweep*.json"))) for name in ("out", "own")]
    capsys.readouterr()
    assert main(["compare", *files, "--output-dir", str(tmp_path / "compared")]) == 2
    assert "the sweeps predict different labels, told_object and instruction" in capsys.readouterr().err
    for options, said in (
        (
            ["--label", "told_object", "--encoder", "minilm"],
            "--encoder minilm: encodes texts, and --label told_object has",
        ),
        (["--label", "nothing", "--where", "prompt_mode == 'task'"], "--label nothing: no episode has it; known of"),
        (["--label", "told_object"], "several prompt modes, crossed (18 episodes), task (6 episodes)"),
        (["--where", "os.system('ls')"], "is no condition; expected comparisons"),
        (
            [*chosen[2:], "--split", "scene", "--label", "task_instruction"],
            "every scene has one task's instruction, so",
        ),
        (["--label", "task_name", "--where", "prompt_mode == 'crossed'", "--split", "task"], "have nothing in common"),
    ):
        assert run("sweep", tmp_path / "runs", tmp_path / "no", *options) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlascope-analysis: ")]
        assert said in line
    assert not (tmp_path / "no").exists()


def test_a_sweep_that_does_not_say_its_label_is_not_compared(runs, tmp_path, capsys):
    assert run("sweep", runs, tmp_path, "--experts", "vlm", "--permutations", "0") == 0
    cells = tmp_path / "cells_sweep_stepall_vlm.parquet"
    pd.read_parquet(cells).drop(columns="label_name").to_parquet(cells)
    capsys.readouterr()
    sweep = str(tmp_path / "results_sweep_stepall_vlm.json")
    assert main(["compare", sweep, "--cells", "vlm:1", "vlm:0", "--output-dir", str(tmp_path)]) == 2
    assert "a sweep of an older vlascope, which does not say its label: make it again" in capsys.readouterr().err
