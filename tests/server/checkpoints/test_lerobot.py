"""LeRobot's port: its policies load as LeRobot runs them, are written, and come back; what is not understood is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vlascope_server.checkpoints import (
    CheckpointError,
    Record,
    Sidecars,
    convert_checkpoint,
    load_checkpoint,
    open_source,
    save_checkpoint,
)
from vlascope_server.commands import main
from vlascope_server.options import CheckpointOptions
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.assembly import find_conventions, find_robot, find_tokenizer
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.robots import Aloha, RobotPipeline
from vlascope_server.robots.norm_stats import NormStats

from .conftest import PI0, PI05, assert_same, draw

BEFORE = "policy_preprocessor_step_5_normalizer_processor.safetensors"
AFTER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
TWO_CAMERAS = dataclasses.replace(PI0, cameras=("base_0_rgb", "left_wrist_0_rgb"))
STATE, ACTION = np.arange(8) / 8, np.arange(7) / 7
STATS = {
    "state": NormStats(STATE, STATE + 0.5, STATE - 1, STATE + 2),
    "actions": NormStats(ACTION, ACTION + 0.25, ACTION - 2, ACTION + 1),
}
RECORD = Record(robot="libero", normalisation="lerobot_zscore", delta_actions=False)


@pytest.fixture(scope="module", params=[TWO_CAMERAS, PI05], ids=["pi0", "pi05"])
def both(request, tmp_path_factory):
    """A configuration, and its policy as LeRobot saves one; read only."""
    config = request.param
    kind = "lerobot_quantile" if config.pi05 else "lerobot_zscore"
    folder = tmp_path_factory.mktemp("lerobot") / "pretrained_model"
    record = dataclasses.replace(RECORD, normalisation=kind)
    sidecars = Sidecars(norm_stats=STATS, asset_id="x", record=record)
    save_checkpoint(folder, draw(config), config, sidecars, kind="lerobot")
    return config, folder


@pytest.fixture(scope="module")
def saved_pi0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "pretrained_model"
    sidecars = Sidecars(norm_stats=STATS, asset_id="x", record=RECORD)
    return save_checkpoint(folder, draw(TWO_CAMERAS), TWO_CAMERAS, sidecars, kind="lerobot")


@pytest.fixture
def policy(saved_pi0, tmp_path):
    """A pi0 to change, without `vlascope.json`, as LeRobot itself leaves it."""
    folder = shutil.copytree(saved_pi0, tmp_path / "pretrained_model")
    (folder / "vlascope.json").unlink()
    return folder


def edit(path: Path, *keys: Any, to: Any) -> None:
    """Sets one value of a JSON file; `...` takes it out."""
    content = json.loads(path.read_text())
    *parents, last = keys
    place = content
    for key in parents:
        place = place[key]
    if to is ...:
        del place[last]
    else:
        place[last] = to
    path.write_text(json.dumps(content))


def refuses(match: str, location: Path, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(location, CheckpointOptions(**options))
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


def assert_same_stats(found, expected=STATS) -> None:
    assert found is not None
    assert found.keys() == expected.keys()
    for quantity, entry in expected.items():
        for field in ("mean", "std", "q01", "q99"):
            np.testing.assert_array_equal(getattr(found[quantity], field), getattr(entry, field))


def test_round_trip_is_exact(both, tmp_path):
    """With `vlascope.json`, and without it as far as LeRobot's own files go: all but the robot's name."""
    config, folder = both
    whole = load_checkpoint(folder, dtype="float32")
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "vlascope.json").unlink()
    for checkpoint in (whole, load_checkpoint(bare, dtype="float32")):
        assert_same(checkpoint.params, draw(config))
        assert_same_stats(checkpoint.norm_stats)
        assert checkpoint.config == config
        assert (checkpoint.kind, checkpoint.asset_id, checkpoint.asset_ids) == ("lerobot", "lerobot", ("lerobot",))
        record = checkpoint.record
        assert record.normalisation == ("lerobot_quantile" if config.pi05 else "lerobot_zscore")
        assert (record.delta_actions, record.state_in_prompt) == (False, True if config.pi05 else None)
    assert whole.record.robot == "libero"


def test_what_is_written_is_what_lerobot_reads(both):
    config, folder = both
    content = json.loads((folder / "config.json").read_text())
    kind, mode, step = ("pi05", "QUANTILES", 2) if config.pi05 else ("pi0", "MEAN_STD", 5)
    assert (content["type"], content["chunk_size"], content["n_action_steps"]) == (kind, 5, 5)
    assert (content["tokenizer_max_length"], content["max_action_dim"], content["max_state_dim"]) == (12, 8, 8)
    assert content["normalization_mapping"] == {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    assert content["input_features"] == {
        "observation.images.base_0_rgb": {"type": "VISUAL", "shape": [3, 56, 56]},
        "observation.images.left_wrist_0_rgb": {"type": "VISUAL", "shape": [3, 56, 56]},
        "observation.state": {"type": "STATE", "shape": [8]},
    }
    assert content["output_features"] == {"action": {"type": "ACTION", "shape": [7]}}
    steps = json.loads((folder / "policy_preprocessor.json").read_text())["steps"]
    names = [entry["registry_name"] for entry in steps]
    text = ["pi05_prepare_state_tokenizer_processor_step"] if config.pi05 else ["pi0_new_line_processor"]
    assert set(text) < set(names)
    assert names.index("normalizer_processor") == step
    assert steps[step]["config"]["eps"] == 1e-8
    file = f"policy_preprocessor_step_{step}_normalizer_processor.safetensors"
    assert steps[step]["state_file"] == file
    tensors = load_file(folder / file)
    np.testing.assert_array_equal(tensors["observation.state.mean"], STATE)
    np.testing.assert_array_equal(tensors["action.q99"], ACTION + 1)
    post = json.loads((folder / "policy_postprocessor.json").read_text())["steps"]
    assert [entry["registry_name"] for entry in post] == ["unnormalizer_processor", "device_processor"]
    stored = load_file(folder / "model.safetensors")
    assert all(name.startswith("model.") for name in stored)
    assert "model.paligemma_with_expert.paligemma.lm_head.weight" in stored


def test_normalisation_is_lerobots_own(policy):
    """(x - mean) / (std + 1e-8), and back x * std + mean; the expected numbers are LeRobot's formula by hand."""
    tensors = load_file(policy / BEFORE)
    tensors["observation.state.std"] = np.full(8, 1e-7)
    save_file(tensors, policy / BEFORE)
    checkpoint = load_checkpoint(policy)
    robot = find_robot("x", checkpoint, "libero")
    stats = checkpoint.norm_stats
    assert stats is not None
    pipeline = RobotPipeline(robot, stats, find_conventions(checkpoint, robot), 8, 56)
    image = np.zeros((56, 56, 3), np.uint8)
    observation = {"observation/image": image, "observation/wrist_image": image, "prompt": "x"}
    state = pipeline.read({**observation, "observation/state": STATE + 1e-7}).state
    np.testing.assert_allclose(state, np.full(8, 1e-7 / 1.1e-7), rtol=1e-6)  # 1 / 1.1; openpi's margin gives 0.09
    actions = pipeline.robot_actions(np.full((5, 8), 2.0), STATE)
    np.testing.assert_array_equal(actions[0], 2.0 * (ACTION + 0.25) + ACTION)


def test_identity_and_quantiles(policy):
    """A state that LeRobot hands through, and actions between quantiles."""
    edit(policy / "config.json", "normalization_mapping", to={"STATE": "IDENTITY", "ACTION": "QUANTILES"})
    for name, step in (("policy_preprocessor.json", 5), ("policy_postprocessor.json", 0)):
        edit(policy / name, "steps", step, "config", "norm_map", to={"STATE": "IDENTITY", "ACTION": "QUANTILES"})
    checkpoint = load_checkpoint(policy)
    stats = checkpoint.norm_stats
    assert stats is not None
    assert checkpoint.record.normalisation == "lerobot_quantile"
    pipeline = RobotPipeline(find_robot("x", checkpoint, "libero"), stats, find_conventions(checkpoint, Aloha()), 8, 56)
    image = np.zeros((56, 56, 3), np.uint8)
    observation = {"observation/image": image, "observation/wrist_image": image, "prompt": "x"}
    np.testing.assert_allclose(pipeline.read({**observation, "observation/state": STATE}).state, STATE, atol=1e-15)
    actions = pipeline.robot_actions(np.zeros((5, 8)), STATE)
    np.testing.assert_allclose(actions[0], (ACTION - 2 + ACTION + 1) / 2)


def test_the_old_names_and_the_statistics_among_the_parameters(saved_pi0, tmp_path):
    """As LeRobot 0.1 to 0.3 saved: PaliGemma's modules elsewhere, normalisation as buffers (huggingface/lerobot#1415)."""
    old = {}
    for name, tensor in load_file(saved_pi0 / "model.safetensors").items():
        name = name.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
        name = name.replace("paligemma.lm_head.", "paligemma.language_model.lm_head.")
        old[re.sub(r"paligemma\.model\.(vision_tower|multi_modal_projector)", r"paligemma.\1", name)] = tensor
    for module, quantity in (
        ("normalize_inputs.buffer_observation_state", "state"),
        ("normalize_targets.buffer_action", "actions"),
        ("unnormalize_outputs.buffer_action", "actions"),
    ):
        for statistic in ("mean", "std"):
            old[f"{module}.{statistic}"] = getattr(STATS[quantity], statistic)
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"type": "pi0", "chunk_size": 5, "tokenizer_max_length": 12}')
    checkpoint = load_checkpoint(tmp_path, dtype="float32")
    assert_same(checkpoint.params, draw(TWO_CAMERAS))
    assert checkpoint.record.normalisation == "lerobot_zscore"
    assert checkpoint.norm_stats is not None
    np.testing.assert_array_equal(checkpoint.norm_stats["state"].mean, STATE)
    np.testing.assert_array_equal(checkpoint.norm_stats["actions"].std, ACTION + 0.25)
    # no statistics were given: LeRobot leaves infinity, and there is nothing to normalise with
    for name in [name for name in old if "normalize" in name]:
        old[name] = np.full_like(old[name], np.inf)
    save_file(old, tmp_path / "model.safetensors")
    assert load_checkpoint(tmp_path).norm_stats is None


def test_buffers_that_contradict_each_other(saved_pi0, tmp_path):
    tensors = load_file(saved_pi0 / "model.safetensors")
    for module, value in (("normalize_targets", 1.0), ("unnormalize_outputs", 2.0)):
        tensors |= {f"{module}.buffer_action.{statistic}": np.full(7, value) for statistic in ("mean", "std")}
    tensors |= {f"normalize_inputs.buffer_observation_state.{statistic}": np.ones(8) for statistic in ("mean", "std")}
    save_file(tensors, tmp_path / "model.safetensors")
    refuses("[2, 2, 2, …] for what comes out, and [1, 1, 1, …] for what the policy learnt from", tmp_path)


def test_a_base_policy_has_no_statistics(policy, caplog):
    for name, step, file in (("policy_preprocessor.json", 5, BEFORE), ("policy_postprocessor.json", 0, AFTER)):
        edit(policy / name, "steps", step, "state_file", to=...)
        (policy / file).unlink()
    assert load_checkpoint(policy).norm_stats is None
    with pytest.raises(
        CheckpointError, match=r"pretrained_model: has no statistics to normalise.*put that of the training data"
    ):
        Pi0Policy.load(str(policy), PolicyOptions(robot="libero"))
    source = open_source(policy)
    with caplog.at_level(logging.WARNING):
        again = convert_checkpoint(source, policy.with_name("again"), "lerobot")
    assert "again: has no statistics: LeRobot will hand states and actions through" in caplog.text
    assert load_checkpoint(again).norm_stats is None


def test_cameras_by_name_and_by_place(policy):
    features = {"observation.state": {"type": "STATE", "shape": [8]}}

    def cameras(*names):
        visual = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 256, 256]} for name in names}
        edit(policy / "config.json", "input_features", to={**visual, **features})
        source = open_source(policy)
        assert source.features is not None
        return dict(source.features.cameras), source.record.cameras

    by_place = {"base_0_rgb": "observation.images.image", "left_wrist_0_rgb": "observation.images.image2"}
    assert cameras("image", "image2") == (by_place, tuple(by_place))
    assert cameras("image", "image2", "empty_camera_0") == (by_place, tuple(by_place))
    by_name = {f"{slot}_0_rgb": f"observation.images.{slot}_0_rgb" for slot in ("base", "right_wrist")}
    assert cameras("base_0_rgb", "right_wrist_0_rgb") == (by_name, tuple(by_name))
    with pytest.raises(CheckpointError, match=r"left_wrist_0_rgb, .*base_0_rgb are not in the model's order"):
        cameras("left_wrist_0_rgb", "base_0_rgb")
    with pytest.raises(CheckpointError, match=r"input_features: 4 cameras \(.*expected at most 3, the image slots"):
        cameras("a", "b", "c", "d")


CONFIG, PRE, POST = "config.json", "policy_preprocessor.json", "policy_postprocessor.json"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ((CONFIG, "type", "act"), "config.json: type: expected one of pi0, pi05, found 'act'"),
        ((CONFIG, "type", None), "config.json: type: expected one of pi0, pi05, found None"),
        ((CONFIG, "type", "pi05"), "config.json: type: it says pi05, and the parameters beside it are a pi0"),
        ((CONFIG, "chunk_size", "50"), "config.json: chunk_size: expected a whole number of at least 1, found '50'"),
        ((CONFIG, "chunk_size", None), "config.json: chunk_size: expected a whole number of at least 1, found None"),
        ((CONFIG, "chunk_size", 0), "config.json: chunk_size: expected a whole number of at least 1, found 0"),
        ((CONFIG, "chunk_size", True), "config.json: chunk_size: expected a whole number of at least 1, found True"),
        (
            (CONFIG, "tokenizer_max_length", 48.0),
            "tokenizer_max_length: expected a whole number of at least 1, found 48.0",
        ),
        ((CONFIG, "tokenizer_max_length", 20), "policy_preprocessor.json: max_length: it says 12, and"),
        ((CONFIG, "max_action_dim", 32), "config.json: max_state_dim: expected max_action_dim (32)"),
        ((CONFIG, "n_obs_steps", 2), "config.json: n_obs_steps: expected 1, since the model sees one moment, found 2"),
        ((CONFIG, "min_period", float("nan")), "config.json: min_period: expected a finite number, found nan"),
        ((CONFIG, "max_period", 8.0), "config.json: max_period: expected 4.0, which the model has, found 8.0"),
        ((CONFIG, "use_peft", True), "config.json: use_peft: expected false"),
        ((CONFIG, "adapt_to_pi_aloha", True), "config.json: adapt_to_pi_aloha: expected false"),
        (
            (CONFIG, "input_features", "observation.state", "shape", 8),
            "observation.state.shape: expected a list of whole",
        ),
        (
            (CONFIG, "input_features", "observation.state", "shape", [2, 4]),
            "shape: expected a list of one whole number",
        ),
        (
            (CONFIG, "input_features", "observation.state", "shape", [9]),
            "statistics of 8 numbers, and config.json says that there are 9",
        ),
        (
            (CONFIG, "output_features", "action", "shape", [6]),
            "action: statistics of 7 numbers, and config.json says that there are 6",
        ),
        ((CONFIG, "input_features", "observation.state", "type", "VISION"), "type: expected one of VISUAL, STATE, ENV"),
        ((CONFIG, "input_features", []), "config.json: input_features: expected a map, found []"),
        ((CONFIG, "normalization_mapping", {"STATE": 3}), "normalization_mapping.STATE: expected a text, found 3"),
        (
            (CONFIG, "normalization_mapping", "STATE", "QUANTILES"),
            "norm_map.STATE: it says MEAN_STD, and config.json says QUANTILES",
        ),
        ((PRE, "steps", {}), "policy_preprocessor.json: steps: expected a list of maps, found {}"),
        ((PRE, "steps", 2, "registry_name", "my_step"), "policy_preprocessor.json: steps: 'my_step' is not known here"),
        ((PRE, "steps", 5, "config", "eps", 1e-3), "steps.5.config.eps: expected one of 1e-08, 1e-06, found 0.001"),
        ((PRE, "steps", 5, "config", "eps", "1e-8"), "steps.5.config.eps: expected a finite number, found '1e-8'"),
        (
            (PRE, "steps", 5, "state_file", "../x.safetensors"),
            "state_file: expected the name of a .safetensors file in the same folder",
        ),
        ((PRE, "steps", 5, "state_file", "y.safetensors"), "y.safetensors: missing; policy_preprocessor.json says"),
        ((PRE, "steps", 3, "config", "padding_side", "left"), "padding_side: expected one of right, found 'left'"),
        ((POST, "steps", []), "policy_postprocessor.json: steps: expected a list of steps, found []"),
        (
            (POST, "steps", 0, "config", "norm_map", "ACTION", "MIN_MAX"),
            "norm_map.ACTION: it says MIN_MAX, and config.json says MEAN_STD",
        ),
    ],
    ids=lambda value: "-".join(map(str, value[1:])) if isinstance(value, tuple) else "",
)
def test_what_is_not_understood_is_refused(policy, change, match):
    name, *keys, value = change
    edit(policy / name, *keys, to=value)
    refuses(match, policy)


@pytest.mark.parametrize("mode", ["MIN_MAX", "QUANTILE10"])
def test_other_normalisations_are_refused_by_name(policy, mode):
    edit(policy / CONFIG, "normalization_mapping", "ACTION", to=mode)
    for name, step in ((PRE, 5), (POST, 0)):
        edit(policy / name, "steps", step, "config", "norm_map", "ACTION", to=mode)
    refuses(f"norm_map.ACTION: expected one of MEAN_STD, QUANTILES, IDENTITY, found '{mode}'", policy)


def test_mixed_normalisations_are_refused_by_name(policy):
    edit(policy / CONFIG, "normalization_mapping", "ACTION", to="QUANTILES")
    for name, step in ((PRE, 5), (POST, 0)):
        edit(policy / name, "steps", step, "config", "norm_map", "ACTION", to="QUANTILES")
    refuses(
        "states are normalised by MEAN_STD with eps 1e-08 and actions by QUANTILES with eps 1e-08; expected one for both",
        policy,
    )


@pytest.mark.parametrize("name", ["relative_actions_processor", "delta_actions_processor"])
def test_relative_actions(policy, name):
    steps = json.loads((policy / PRE).read_text())["steps"]
    steps.insert(0, {"registry_name": name, "config": {"enabled": False, "exclude_joints": [], "action_names": None}})
    edit(policy / PRE, "steps", to=steps)
    assert load_checkpoint(policy).norm_stats is not None
    edit(policy / PRE, "steps", 0, "config", "enabled", to=True)
    refuses("steps.0.config.enabled: expected false, since relative actions of LeRobot's kind", policy)


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        (BEFORE, {"observation.state.std": None}, "observation.state.std: missing; MEAN_STD needs it"),
        (BEFORE, {"observation.state.std": np.full(8, -1.0)}, "observation.state.std: dimension 0 is negative"),
        (BEFORE, {"observation.state.mean": np.full(8, np.nan)}, "observation.state.mean: dimension 0 is not finite"),
        (BEFORE, {"observation.state.mean": np.zeros(7)}, "observation.state.std: expected a vector as long as mean"),
        (
            BEFORE,
            {"action.mean": np.ones(7)},
            "policy_postprocessor.json: action.mean: [0, 0.142857, 0.285714, …] for what comes out",
        ),
        (AFTER, {"action.std": None}, "policy_postprocessor.json: action.std: missing"),
    ],
)
def test_damaged_statistics(policy, file, change, match):
    tensors = {name: x for name, x in {**load_file(policy / file), **change}.items() if x is not None}
    save_file(tensors, policy / file)
    refuses(match, policy)


def test_half_of_the_processors(policy):
    (policy / POST).rename(policy / "elsewhere.json")
    refuses("policy_postprocessor.json: missing; the other half of the processors is beside it; copy it too", policy)
    (policy / PRE).unlink()
    refuses("policy_preprocessor.json: missing, and policy_postprocessor_step_0", policy)


def test_who_contradicts_lerobots_files(policy):
    refuses(
        "config.json: chunk_size: it says 5, and action_horizon 7 was asked for; leave action_horizon= away",
        policy,
        action_horizon=7,
    )
    refuses("chunk_size: it says 5, and preset pi0_base says action_horizon 50", policy, preset="pi0_base")
    (policy / "vlascope.json").write_text('{"schema": 1, "normalisation": "zscore"}')
    refuses("norm_map, eps: it says lerobot_zscore, and", policy)
    # one that repeats it, and one that is to become another policy
    (policy / "vlascope.json").unlink()
    assert load_checkpoint(policy, CheckpointOptions(action_horizon=5)).config.action_horizon == 5
    assert load_checkpoint(policy, CheckpointOptions(action_horizon=7), to_train=True).config.action_horizon == 7


def test_conversion_from_openpis_formula_and_back(saved, tmp_path):
    """A policy of openpi's normalisation says so in `eps`, and comes back as what it was."""
    source = open_source(saved).asked(Record(delta_actions=False))
    folder = convert_checkpoint(source, tmp_path / "lerobot", "lerobot")
    step = json.loads((folder / PRE).read_text())["steps"][5]
    assert step["config"]["eps"] == 1e-6
    for bare in (False, True):
        if bare:
            (folder / "vlascope.json").unlink()
        checkpoint = load_checkpoint(folder, dtype="float32")
        assert checkpoint.record.normalisation == "zscore"
        assert_same(checkpoint.params, draw(PI0))
    orbax = load_checkpoint(convert_checkpoint(open_source(folder), tmp_path / "orbax", "orbax"), dtype="float32")
    assert_same(orbax.params, draw(PI0))
    assert_same_stats(orbax.norm_stats, load_checkpoint(saved).norm_stats)
    assert (orbax.record.normalisation, orbax.record.delta_actions, orbax.asset_id) == ("zscore", False, "lerobot")


def test_what_lerobot_cannot_do_is_not_written(saved, tmp_path):
    def refuses_to_write(match, *said):
        source = open_source(saved)
        for record in said:
            source = dataclasses.replace(source, record=record.over(source.record))
        with pytest.raises(CheckpointError, match=match):
            convert_checkpoint(source, tmp_path / "out", "lerobot")
        assert not list(tmp_path.iterdir())

    refuses_to_write("delta_actions: its actions are relative to the state")  # LIBERO's usual, for pi0
    unknown = dataclasses.replace(open_source(saved), record=Record(action_horizon=5, max_token_len=12))
    with pytest.raises(CheckpointError, match=r"does not say whether its actions are relative.*give delta_actions="):
        convert_checkpoint(unknown, tmp_path / "out", "lerobot")
    lengths = dataclasses.replace(unknown, record=Record())
    with pytest.raises(
        CheckpointError, match=r"action_horizon and max_token_len: not known.*give action_horizon= and max_token_len="
    ):
        convert_checkpoint(lengths, tmp_path / "out", "lerobot")
    with pytest.raises(CheckpointError, match="state_in_prompt: its prompts are without the state"):
        save_checkpoint(
            tmp_path / "out",
            draw(PI05),
            PI05,
            kind="lerobot",
            sidecars=Sidecars(record=Record(delta_actions=False, state_in_prompt=False)),
        )
    assert not list(tmp_path.iterdir())


def test_one_of_several_statistics(saved, tmp_path, capsys):
    folder = shutil.copytree(saved, tmp_path / "1000")
    record = json.loads((folder / "vlascope.json").read_text())
    (folder / "vlascope.json").write_text(json.dumps({**record, "asset_id": None, "delta_actions": False}))
    shutil.copytree(folder / "assets" / "lab" / "robot", folder / "assets" / "droid")
    command = ["convert", str(folder), str(tmp_path / "out"), "--to", "lerobot"]
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"vlascope-server: {folder}: has the statistics of droid, lab/robot, and LeRobot has room for one;"
        " choose with --asset-id"
    )
    assert main([*command, "--asset-id", "droid"]) == 0
    assert load_checkpoint(tmp_path / "out").norm_stats is not None


def test_statistics_padded_to_the_models_width_are_cut(tmp_path):
    padded = {key: NormStats(np.zeros(8), np.ones(8)) for key in ("state", "actions")}
    sidecars = Sidecars(norm_stats=padded, asset_id="x", record=RECORD)
    folder = save_checkpoint(tmp_path / "a", draw(PI0), PI0, sidecars, kind="lerobot")
    content = json.loads((folder / CONFIG).read_text())
    assert content["output_features"]["action"]["shape"] == [7]
    stats = load_checkpoint(folder).norm_stats
    assert stats is not None
    assert stats["actions"].width == 7


def test_a_state_padded_in_the_prompt(tmp_path, caplog):
    """LeRobot 0.4 wrote 32 numbers into a pi0.5 prompt, and since 0.5 the robot's own; a file does not tell which."""
    drawn = load_checkpoint("tiny-pi05", CheckpointOptions(max_token_len=200), dtype="float32")
    record = dataclasses.replace(drawn.record, delta_actions=False)
    sidecars = Sidecars(norm_stats=drawn.norm_stats, asset_id="x", record=record, tokenizer=drawn.tokenizer)
    folder = save_checkpoint(tmp_path / "a", drawn.params, drawn.config, sidecars, kind="lerobot")
    assert load_checkpoint(folder).record.prompt_state_dim == 8
    facts = {"schema": 1, "vision_heads": 4}

    def prompt(record):
        (folder / "vlascope.json").write_text(json.dumps(record))
        caplog.clear()
        checkpoint = load_checkpoint(folder)
        tokenizer = find_tokenizer("a", checkpoint)
        return tokenizer.decode(tokenizer.encode("go", 200, np.zeros(8))), caplog.text

    text, warning = prompt(facts)
    assert text.count("128") == 8
    assert "does not tell whether the state was padded to 32 numbers in its prompts" in warning
    text, warning = prompt({**facts, "prompt_state_dim": 32})
    assert text.count("128") == 32
    assert "does not tell" not in warning


def test_alohas_joints_go_in_as_the_driver_gives_them(policy):
    """openpi's adaptation of ALOHA is no part of LeRobot's port."""
    robot = find_robot("x", load_checkpoint(policy), "aloha")
    assert isinstance(robot, Aloha)
    assert not robot.adapt_to_pi


def test_inspect_says_what_lerobot_calls_things(policy, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(policy)]) == 0
    out = capsys.readouterr().out
    assert "pi0, lerobot" in out
    assert "observation.images.base_0_rgb as base_0_rgb" in out
    assert main(["inspect", str(policy), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["features"]["state_dim"] == 8
    assert out["norm_stats"]["lerobot"]["actions"] == {"width": 7, "quantiles": True}


def test_folders_of_a_lerobot_run(policy, tmp_path):
    step = tmp_path / "005000"
    step.mkdir()
    shutil.move(policy, step / "pretrained_model")
    refuses(f"LeRobot's policy is in {step}/pretrained_model: name that", step)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_model.safetensors").touch()
    refuses("adapter_model.safetensors holds adapters without their model: merge them with PEFT first", adapters)


def places(content: Any, at: tuple = ()):
    """Every place in a JSON value."""
    pairs = (
        content.items() if isinstance(content, dict) else enumerate(content[:2]) if isinstance(content, list) else ()
    )
    for key, value in pairs:
        yield (*at, key)
        yield from places(value, (*at, key))


@pytest.mark.parametrize("name", [CONFIG, PRE, POST])
def test_a_wrong_value_anywhere_is_one_line_or_does_not_matter(policy, name):
    path = policy / name
    content = path.read_text()
    messages = []
    for at in list(places(json.loads(content))):
        for value in (..., None, "x", -1, float("nan"), True, [], {}):
            edit(path, *at, to=value)
            try:
                open_source(policy).norm_stats("lerobot")
            except CheckpointError as error:
                messages.append(str(error))
            path.write_text(content)
    assert len(messages) > 30
    assert [message for message in messages if "\n" in message or str(policy) not in message] == []
