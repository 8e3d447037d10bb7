"""The command lines of the reference's document on linear probing do what it says, on pickles laid out as its own."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.commands import SUBCOMMANDS, main
from vlascope_analysis.data import opening
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.data.opening import open_store
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery
from vlascope_base.cache import cache_folder
from vlascope_base.command import parse_command
from vlascope_latents.store import StoreError
from vlascope_server.cache_contents import cache_parts, clear

from tests.analysis.reference_pickles import LAYERS, SUFFIX, TEXT, content, name_of, step, told, write_pickle
from tests.analysis.stores import make_run, task_at

BASIC = r"""
    --rollout_step 10 \
    --expert vlm \
    --layer 5 \
    --data_path data/inference_latents \
    --task_range 0 10 \
    --episode_range 0 5
"""
ADVANCED = r"""
    --rollout_step 20 \
    --expert action \
    --layer 10 \
    --data_path data/inference_latents \
    --task_range 5 15 \
    --episode_range 2 8 \
    --learning_rate 0.001 \
    --num_epochs 100 \
    --batch_size 32 \
    --output_dir results/linear_probing
"""
LESS_MEMORY = r"""
    --batch_size 16 --task_range 0 5 --episode_range 0 3
"""
SEED = r"""
    --seed 42
"""
PICKLES = "data/inference_latents"


def words(block: str) -> list[str]:
    """What a shell makes of a command line that goes on after a backslash."""
    return block.replace("\\\n", " ").split()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which the reference has collected latents."""
    folder = tmp_path_factory.mktemp("project")
    (folder / PICKLES).mkdir(parents=True)
    for task in range(15):
        # as much as the two command lines read
        steps = [10] * (task < 10) + [20] * (task >= 5)
        write_pickle(folder / PICKLES, task, range(8 if task >= 5 else 5), steps)
    return folder


@pytest.fixture
def here(project, tmp_path, monkeypatch):
    """The working folder is the project's; imports are shared by tests, results are not."""
    monkeypatch.setenv("VLASCOPE_CACHE", str(project / "cache"))
    (tmp_path / "data").symlink_to(project / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with pickles of two tasks, and an empty cache."""
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pickles").mkdir()
    for task in (0, 3):
        write_pickle(tmp_path / "pickles", task, range(2), [10])
    return tmp_path / "pickles"


def imported() -> list[str]:
    """Names of the folders of imports."""
    folder = cache_folder() / "imports"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def one_line(capsys) -> str:
    """The error on stderr, which is one line."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlascope-analysis:")]
    return line


@pytest.mark.parametrize(
    ("block", "stem", "instructions", "episodes"),
    [
        (BASIC, "vlm_layer5_step10_tasks0to10_episodes0to5", range(10), 5),
        (BASIC + LESS_MEMORY + SEED, "vlm_layer5_step10_tasks0to5_episodes0to3", range(5), 3),
        (BASIC.replace("vlm", "text_only"), "text_only_layer5_step10_tasks0to10_episodes0to5", range(10), 5),
        (ADVANCED, "action_layer10_step20_tasks5to15_episodes2to8", range(5, 15), 6),
    ],
    ids=["basic", "less memory", "text_only", "advanced"],
)
def test_usage_as_written(here, capsys, block, stem, instructions, episodes):
    # no more than one permutation of the labels, which the document has not, to save time
    assert main(["probe", *words(block), "--permutations", "1"]) == 0
    result = json.loads((here / f"results/linear_probing/results_{stem}.json").read_text())
    (scores,) = result["tables"]["scores"]
    assert (scores["frames"], scores["episodes"]) == (episodes * len(instructions),) * 2
    assert scores["accuracy"] == pytest.approx(1)
    assert scores["closed_form_accuracy"] == pytest.approx(1)
    told_here = {row["task_id"]: row["label"] for row in result["tables"]["classes"]}
    assert told_here == {task: told(task) for task in instructions}
    assert result["config"]["store"] == PICKLES
    assert {run["model"]["imported_from"] for run in result["data"]["runs"]} == {
        f"task_{task}_{name_of(task)}.pkl" for task in instructions
    }
    summary = (here / f"results/linear_probing/summary_{stem}.txt").read_text()
    # what the scene tells stands before any number; the reference's head follows
    assert summary.startswith(
        "Linear Probing Results\n======================\n\nThe scene alone tells the instruction: "
    )
    assert "\n\nExpert: " in summary
    assert "Feature Type: hidden_states" in summary
    assert f"Number of Samples: {scores['frames']}" in summary


def test_a_layer_that_knows_nothing_scores_as_chance(here, capsys):
    """So that the accuracies above come from the layer and the step that were asked for."""
    assert main(["sweep", *words(BASIC)[:2], *words(BASIC)[6:], "--experts", "vlm", "--permutations", "0"]) == 0
    (file,) = (here / "results/linear_probing").glob("cells_*.parquet")
    cells = pd.read_parquet(file)
    accuracy = dict(zip(cells["layer"].tolist(), cells["accuracy"].tolist(), strict=True))
    assert accuracy.pop(5) == pytest.approx(1)
    assert len(accuracy) == LAYERS - 1
    assert max(accuracy.values()) < 0.4


@pytest.mark.parametrize(
    ("expert", "layer", "steps", "positions"),
    [("vlm", 5, None, slice(0, 816)), ("text_only", 5, None, TEXT), ("action", 10, (1,), slice(0, SUFFIX))],
)
def test_features_are_the_positions_of_the_document(here, expert, layer, steps, positions):
    query = EpisodeQuery(task_range=(2, 4), episode_range=(1, 3))
    store = open_store(here / PICKLES, query)
    episodes, _ = choose_episodes(store, query)
    features = load_features(store, episodes, Slice(expert, layers=(layer,), denoise_steps=steps), timesteps=[10])
    rows = list(zip(features.frames["task_id"], features.frames["episode_index"], strict=True))
    assert sorted(rows) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    for got, (task, episode) in zip(features.array[0, 0], rows, strict=True):
        stored = step(task, episode, 10)["action_expert_hidden_state_t1" if steps else "vlm_layer_output"]
        expected = stored["hidden_states"][layer, 0, positions].mean(axis=0)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_episodes_are_counted_as_the_reference_names_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    file = write_pickle(tmp_path, 0, range(12), [10])
    query = EpisodeQuery(episode_range=(2, 11))
    episodes, _ = choose_episodes(open_store(file, query), query)
    assert {e.episode.id: e.number for e in episodes} == {f"task_0-episode_{n}": n for n in range(2, 11)}


def test_pickles_are_imported_once(small, caplog):
    caplog.set_level(logging.INFO)
    first = open_store(small, EpisodeQuery())
    assert len(first.runs) == 2
    assert (
        f"importing 2 pickles of the reference, about {sum(p.stat().st_size for p in small.iterdir()) / 1e6:.4g} MB"
        in caplog.text
    )
    assert str(cache_folder() / "imports") in caplog.text
    caplog.clear()
    again = open_store(small, EpisodeQuery())
    assert [run.created for run in again.runs] == [run.created for run in first.runs]
    assert "importing" not in caplog.text
    assert "2 of them from before" in caplog.text
    before = imported()
    changed = write_pickle(small, 3, range(3), [10])
    store = open_store(small, EpisodeQuery())
    assert len(store.episodes()) == 2 + 3
    after = imported()
    assert len(after) == 2  # the import of what the pickle held before is gone
    assert set(before) & set(after) == {name for name in before if name.startswith("task_0")}
    # the same name in another folder is another pickle
    other = small.parent / "other"
    other.mkdir()
    shutil.copy2(changed, other)
    assert len(open_store(other / changed.name, EpisodeQuery()).episodes()) == 3
    assert len(imported()) == 3


def test_what_clears_the_cache_knows_imports(small):
    open_store(small, EpisodeQuery())
    found = {part.kind: part for part in cache_parts()}["imports"]
    assert found.number == 2
    assert clear("imports") == found.nbytes
    assert imported() == []
    assert len(open_store(small, EpisodeQuery()).episodes()) == 4


def test_only_pickles_of_the_asked_tasks_are_imported(small):
    (small / "task_9_damaged.pkl").write_bytes(b"\x80")
    (small / "notes.txt").write_text("not a pickle")
    store = open_store(small, EpisodeQuery(task_range=(3, 5), allow_missing=True))
    assert [name.split("_")[1] for name in imported()] == ["3"]
    assert [run.model["imported_from"] for run in store.runs] == [f"task_3_{name_of(3)}.pkl"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            EpisodeQuery(task_range=(3, 6)),
            "tasks 4, 5 are not there; found pickles of tasks 0, 3; --allow-missing takes",
        ),
        (EpisodeQuery(task_range=(1, 3), allow_missing=True), "tasks 1, 2 are not there; found pickles of tasks 0, 3"),
        (EpisodeQuery(task_range=(3, 3)), "--task-range 3 3: selects nothing"),
    ],
)
def test_missing_tasks_are_said_before_anything_is_imported(small, query, message):
    with pytest.raises(AnalysisError, match=message):
        open_store(small, query)
    assert imported() == []


def test_a_disk_without_room_is_said_before_anything_is_imported(small, monkeypatch):
    monkeypatch.setattr(opening.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(AnalysisError, match="1 kB are free: make room, set VLASCOPE_CACHE"):
        open_store(small, EpisodeQuery())
    assert imported() == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def broken(**changes: object) -> bytes:
    """A pickle of a task whose fields are changed, or removed where the change is None."""
    held = content(0, range(2), [10]) | changes
    return pickle.dumps({name: value for name, value in held.items() if value is not None})


WHOLE = broken()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (WHOLE[: len(WHOLE) // 2], "is not read"),
        (b"", "is not read"),
        (b"no pickle at all", "is not read"),
        (broken(episodes={"episode_0": {"rollout_steps": {"step_10": Evil()}}}), "only numpy arrays are read"),
        (broken(task_id=None), "KeyError: 'task_id'"),
        (broken(episodes=[1, 2]), "found something else"),
        (broken(episodes={"episode_0": {"rollout_steps": {}}}), "no rollout steps"),
        (broken(episodes={"episode_0": {"rollout_steps": {"step_1": {"timestep": 1}}}}), "no hidden states"),
        (broken(episodes={"e": {"rollout_steps": {"s": {"timestep": 1, "vlm_layer_output": {"hidden_states": 3}}}}}),
         "expected arrays"),
        (pickle.dumps([1, 2, 3]), "found something else"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_pickle_is_one_line(tmp_path, monkeypatch, capsys, held, message):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task_0_x.pkl").write_bytes(held)
    assert main(["probe", "--data_path", "task_0_x.pkl", "--expert", "vlm", "--layer", "5"]) == 2
    line = one_line(capsys)
    assert message in line
    assert "task_0_x.pkl" in line
    assert imported() == []
    assert not (tmp_path / "pwned").exists()


def test_a_folder_with_runs_is_a_store_whatever_lies_beside_them(small):
    make_run(small, tasks=2, episodes=2)
    assert len(open_store(small, EpisodeQuery()).runs) == 1
    assert imported() == []
    (small / "empty").mkdir()
    with pytest.raises(StoreError, match="no run here"):
        open_store(small / "empty", EpisodeQuery())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root, task_at(1, 2), tasks=2, episodes=5)
    return root


SWEEP = ["sweep", "--experts", "vlm", "--permutations", "0"]


@pytest.mark.parametrize("command", [SWEEP, ["probe", "--expert", "vlm", "--layer", "1"]])
def test_a_store_is_named_in_one_way(runs, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    line = one_line(capsys)
    assert "STORE" in line
    assert "--data-path" in line
    assert main([*command, str(runs), "--data_path", "elsewhere"]) == 2
    line = one_line(capsys)
    assert f"two stores are named, {runs} and --data-path elsewhere" in line


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ({}, ["RUNS", "--data_path", "RUNS/."]),
        ({"store": "RUNS"}, []),
        ({"data_path": "RUNS"}, []),
        ({"data-path": "RUNS", "store": "RUNS/."}, []),
        # what the command line names counts, whichever way each is named
        ({"store": "elsewhere"}, ["--data-path", "RUNS"]),
        ({"data_path": "elsewhere"}, ["RUNS"]),
        ({"data_path": "elsewhere"}, ["--data_path=RUNS"]),
    ],
)
def test_a_file_of_options_may_name_it_too(runs, tmp_path, monkeypatch, written, given):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "options.json"
    file.write_text(json.dumps({name: value.replace("RUNS", str(runs)) for name, value in written.items()}))
    given = [word.replace("RUNS", str(runs)) for word in given]
    command = parse_command("vlascope-analysis", "", SUBCOMMANDS, [*SWEEP, *given, "--config", str(file)])
    assert command.store_path().resolve() == runs.resolve()


def test_a_result_is_a_file_of_options_that_names_the_store(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SWEEP, "--data_path", str(runs)]) == 0
    results = tmp_path / "results/linear_probing/results_sweep_stepall_vlm.json"
    first = json.loads(results.read_text())
    assert first["config"]["store"] == str(runs)
    assert "data_path" not in first["config"]
    assert main(["sweep", "--config", str(results), "--output-dir", "again"]) == 0
    assert json.loads((tmp_path / "again" / results.name).read_text())["tables"] == first["tables"]


def test_a_file_of_options_names_one_store(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text("store: here\ndata_path: there\n")
    assert main([*SWEEP, "--config", str(file)]) == 2
    assert f"{file}: names two stores, store here and data_path there" in one_line(capsys)


@pytest.mark.parametrize(
    ("command", "output", "file"),
    [
        (["probe", "--expert", "vlm", "--layer", "1", "--rollout_step", "10"], "results/foo.pkl",
         "results/results_vlm_layer1_step10.json"),
        (["sweep"], "foo.PKL", "results_sweep_stepall.json"),
        (["sweep", "--experts", "vlm"], "a/foo.pickle", "a/results_sweep_stepall_vlm.json"),
    ],
)  # fmt: skip
def test_no_pickle_is_written(runs, tmp_path, monkeypatch, capsys, command, output, file):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--data_path", str(runs), "--output_dir", output]) == 2
    line = one_line(capsys)
    assert f"--output-dir {output}: no pickle is written, since reading one runs whatever code is in it" in line
    assert line.endswith(f"writes {file}")
    assert list(tmp_path.iterdir()) == []


def test_no_comparison_is_written_as_a_pickle(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SWEEP, str(runs)]) == 0
    sweep = "results/linear_probing/results_sweep_stepall_vlm.json"
    capsys.readouterr()
    options = ["--cells", "vlm:0", "vlm:1", "--output_dir", "foo.pkl"]
    assert main(["compare", sweep, *options]) == 2
    promised = one_line(capsys).rpartition("writes ")[2]
    assert main(["compare", sweep, *options[:-1], "."]) == 0
    assert (tmp_path / promised).is_file()
