"""What an accuracy is compared with: a control run, what needs no hidden state, and labels without a meaning."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from vlascope_analysis.analyses.sweep.compute import Wanted, sweep
from vlascope_analysis.analyses.sweep.summary import sweep_summary
from vlascope_analysis.analyses.words import control_lines
from vlascope_analysis.commands import main
from vlascope_analysis.data.control import ControlRun
from vlascope_analysis.data.encoders import open_encoder
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.data.labels import labels_of
from vlascope_analysis.data.metadata_features import metadata_features
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery, EvaluationConfig, FeatureOptions
from vlascope_analysis.results import Result, read_result
from vlascope_latents import CaptureSpec

from tests.analysis.stores import direction, make_run
from tests.analysis.test_commands import check_picture

SPEC = CaptureSpec(experts=("vlm",), layers=(0, 1), spans=("text",), dtype="float32")
SMALL = {"tasks": 3, "episodes": 6, "timesteps": (0, 10), "spec": SPEC}


def knows(*layers: int):
    """The vlm knows the task at some of its two captured layers."""

    def fill(path: str, array: np.ndarray, moment) -> None:
        for layer in layers:
            array[layer] += 2 * direction(1, moment.task, width=array.shape[-1])

    return fill


def state_knows(moment) -> dict:
    """The robot's state knows the task, and the action that was inferred at timestep 0 does."""
    rng = np.random.default_rng([moment.task, moment.episode, moment.timestep])
    own = direction(7, moment.task, width=7)
    actions = np.stack([own + 0.1 * rng.standard_normal(7), rng.standard_normal(7)]).astype(np.float32)
    return {"state": (own + 0.1 * rng.standard_normal(7)).astype(np.float32), "actions": actions}


def swept(root: Path, path: Path | None = None, **options) -> Result:
    store = make_run(root, knows(0, 1), **(SMALL | options))
    episodes, _ = choose_episodes(store, EpisodeQuery())
    control = None if path is None else ControlRun.open(path, store, episodes)
    labels = functools.partial(labels_of, label="instruction", encode=open_encoder("onehot"))
    config = EvaluationConfig(permutations=19)
    return sweep(store, episodes, Wanted(["vlm"], FeatureOptions()), config, labels, control=control)


def test_what_weights_at_random_reach_is_told_from_what_training_adds(tmp_path):
    # the control's layer 0 knows the task too; its layer 1 does not
    make_run(tmp_path / "drawn", knows(0), fingerprint="d0", campaign="again", seed=5, **SMALL)
    cells = swept(tmp_path / "runs", tmp_path / "drawn").tables["cells"].set_index("layer")
    assert cells["accuracy"].to_numpy() == pytest.approx([1, 1])
    assert cells["control_accuracy"].to_numpy()[0] == pytest.approx(1)
    assert cells["control_accuracy"].to_numpy()[1] < 0.65
    assert cells["over_control_low"].to_numpy()[0] <= 0 < cells["over_control_low"].to_numpy()[1]
    np.testing.assert_allclose(cells["over_control"], cells["accuracy"] - cells["control_accuracy"], atol=1e-9)
    assert cells["control"].tolist() == [next((tmp_path / "drawn").iterdir()).name] * 2


def test_the_summary_says_what_of_the_accuracy_is_there_at_random(tmp_path):
    make_run(tmp_path / "drawn", knows(0, 1), fingerprint="d0", seed=5, **SMALL)
    summary = sweep_summary(swept(tmp_path / "runs", tmp_path / "drawn"))
    assert "Of the accuracy 1.000, the control run (" in summary
    assert ") reaches 1.000: that more is read here cannot be concluded (difference +0.000 (" in summary
    make_run(tmp_path / "nothing", fingerprint="d1", seed=5, **SMALL)
    more = swept(tmp_path / "more", tmp_path / "nothing")
    assert ": the difference is +0." in sweep_summary(more)
    row = more.tables["cells"].iloc[0].to_dict() | {"control": "drawn:0 like tiny"}
    assert ", weights at random (drawn:0 like tiny) reach 0." in control_lines(row)[0]
    said = "Not compared with weights at random: `vlascope-server capture --checkpoint drawn:0 --like CHECKPOINT`"
    assert said in sweep_summary(swept(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fingerprint": "f00d"}, r"is of the policy that is probed \(f00d\): no control"),
        ({"episodes": 5}, "has no partner of 3 of 18 episodes .*such as libero_goal-task0-ep5; `vlascope-server capture"),
        ({"suite": "libero_10"}, "has no partner of 18 of 18 episodes"),
        ({"spec": CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), dtype="float32")}, "captured with another spec"),
        ({"timesteps": (0, 20)}, r"its episodes have other frames than those that are probed \(36 frames, 0, 20; expected 36"),
        ({"metadata": lambda *_: {"instruction": "wave"}}, "its episodes have other instructions than"),
    ],
)  # fmt: skip
def test_other_frames_and_other_specs_are_refused(tmp_path, options, said):
    make_run(tmp_path / "drawn", **(SMALL | {"fingerprint": "d0"} | options))
    with pytest.raises(AnalysisError, match=f"--control-run .*{said}") as error:
        swept(tmp_path / "runs", tmp_path / "drawn")
    assert str(error.value).isprintable()


def test_two_campaigns_of_a_control_run_are_not_guessed_between(tmp_path):
    for campaign in ("a", "b"):
        make_run(tmp_path / "drawn", fingerprint="d0", campaign=campaign, **SMALL)
    with pytest.raises(
        AnalysisError, match="has several partners of libero_goal-task0-ep0: name one run, of one campaign"
    ):
        swept(tmp_path / "runs", tmp_path / "drawn")


def test_what_needs_no_hidden_state_is_scored_beside_the_best_cell(tmp_path):
    found = swept(tmp_path / "runs", values=state_knows).tables["baselines"]
    table = {str(row["baseline"]): row for row in found.to_dict("records")}
    assert list(table) == ["timestep", "robot state", "previous action", "scene", "control task"]
    assert table["robot state"]["accuracy"] == pytest.approx(1)
    assert table["scene"]["accuracy"] == pytest.approx(1)  # a scene each task
    assert table["previous action"]["features"] == 8
    assert 0.6 < table["previous action"]["accuracy"] < 0.75, "half of the frames have an action before them: 1/2 + 1/6"
    assert table["timestep"]["accuracy"] == pytest.approx(1 / 3, abs=0.1)
    # a scene's class at random is learnt as well as the true one, where each scene has one
    assert table["control task"]["accuracy"] == pytest.approx(1)
    for name, row in table.items():
        assert row["difference"] == pytest.approx(1 - row["accuracy"])
        assert (row["difference_low"] > 0) == (name in ("timestep", "previous action"))
    summary = sweep_summary(swept(tmp_path / "again", values=state_knows))
    assert "The best cell does better than timestep, previous action." in summary
    assert "That the best cell does better than robot state, scene, control task cannot be concluded." in summary
    lacking = swept(tmp_path / "none").tables["baselines"].set_index("baseline")
    assert lacking.loc["robot state", "note"] == "not stored"
    assert lacking.loc["previous action", "note"] == "not stored"


def test_the_previous_action_is_of_the_captured_frame_before(tmp_path):
    store = make_run(tmp_path, values=state_knows, tasks=1, episodes=2, timesteps=(0, 10, 20), spec=SPEC)
    episodes, _ = choose_episodes(store, EpisodeQuery())
    what = Slice("vlm", layers=(0,))
    found = metadata_features(store, episodes, what, [0, 20], "common")
    frames = load_features(store, episodes, what, [0, 20], frames="common").frames
    selection = store.select("vlm", layers=0)
    actions = selection.values("actions")[:, 0]
    previous = found["previous action"]
    assert previous is not None
    assert frames["timestep"].tolist() == [0, 20] * 2
    np.testing.assert_array_equal(previous[[0, 2]], 0)
    np.testing.assert_array_equal(previous[[1, 3], :7], actions[[1, 4]])  # of timestep 10, which is not probed
    np.testing.assert_array_equal(previous[[1, 3], 7], 1)


def test_both_commands_take_a_control_run(tmp_path):
    make_run(tmp_path / "runs", knows(0, 1), values=state_knows, **SMALL)
    make_run(tmp_path / "drawn", values=state_knows, fingerprint="d0", seed=5, **SMALL)
    given = [str(tmp_path / "runs"), "--control-run", str(tmp_path / "drawn"), "--permutations", "0"]
    given += ["--output-dir", str(tmp_path / "out"), "--encoder", "onehot"]
    assert main(["sweep", *given, "--experts", "vlm"]) == 0
    assert (
        main(["probe", *given, "--expert", "vlm", "--layer", "1", "--num-epochs", "15", "--learning-rate", "0.02"]) == 0
    )
    for name in ("results_sweep_stepall_vlm_onehot_control-drawn", "results_vlm_layer1_stepall_onehot_control-drawn"):
        result = read_result(tmp_path / "out" / f"{name}.json")
        row = result.tables["cells" if result.analysis == "sweep" else "scores"].iloc[0]
        assert row["control_accuracy"] < 0.65 < row["accuracy"]
        assert row["over_control_low"] > 0
        assert result.tables["baselines"]["baseline"].tolist()[-1] == "control task"
        summary = (tmp_path / "out" / f"{name.replace('results', 'summary')}.txt").read_text()
        assert ": the difference is +" in summary
    check_picture(tmp_path / "out" / "heatmap_sweep_stepall_vlm_onehot_control-drawn.png")
