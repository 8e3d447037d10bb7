"""Loading and saving: what the record, presets and arguments say, and one line for everything that is wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from vlascope_server.checkpoints import (
    CheckpointError,
    Record,
    Sidecars,
    convert_checkpoint,
    load_checkpoint,
    open_source,
    save_checkpoint,
)
from vlascope_server.checkpoints.orbax_format import write_orbax
from vlascope_server.model import CAMERAS, ParameterError
from vlascope_server.options import CheckpointOptions
from vlascope_server.presets import PRESETS
from vlascope_server.robots.norm_stats import NormStats

from .conftest import LORA, PI0, PI05, assert_same, draw


@pytest.fixture
def copy(saved, tmp_path):
    """A checkpoint to damage."""
    return shutil.copytree(saved, tmp_path / "1000")


def bare(folder, config=PI0):
    """A checkpoint as the reference writes it: without vlascope.json."""
    write_orbax(folder / "params", draw(config))
    return folder


def refuses(match, location, dtype="bfloat16", **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(location, CheckpointOptions(**options), dtype=dtype)
    assert "\n" not in str(caught.value)


def test_a_saved_checkpoint_says_everything(saved):
    checkpoint = load_checkpoint(saved)
    assert checkpoint.config == dataclasses.replace(PI0, dtype="bfloat16")
    assert checkpoint.asset_id == "lab/robot"
    assert checkpoint.norm_stats is not None
    assert checkpoint.norm_stats["actions"].width == 7
    record = checkpoint.record
    assert (record.robot, record.normalisation, record.norm_stats_count, record.step) == ("libero", "zscore", 123, 1000)
    assert (checkpoint.kind, checkpoint.path) == ("orbax", saved)
    assert next(iter(checkpoint.params.values())).dtype == "bfloat16"


def test_cameras_and_adapters_alpha_survive(tmp_path):
    assert load_checkpoint(save_checkpoint(tmp_path / "a", draw(PI05), PI05)).config.cameras == PI05.cameras
    lora = load_checkpoint(save_checkpoint(tmp_path / "b", draw(LORA), LORA)).config.vlm.attn_lora
    assert lora is not None
    assert lora.scale == 4


def test_nobody_guesses_horizon_or_token_length(tmp_path):
    folder = bare(tmp_path / "step")
    refuses(
        r"step: action_horizon and max_token_len: neither vlascope.json nor config.json says.*; give action_horizon= and"
        r" max_token_len=, or preset=, one of tiny, .*pi05_libero",
        folder,
    )
    refuses(
        "step: max_token_len: neither vlascope.json nor config.json says.*; give max_token_len=, or preset=",
        folder,
        action_horizon=5,
    )
    assert load_checkpoint(folder, CheckpointOptions(action_horizon=5, max_token_len=12)).config.cameras == CAMERAS


def test_preset_fills_in_and_arguments_overrule(tmp_path):
    checkpoint = load_checkpoint(
        bare(tmp_path / "step", PI05), CheckpointOptions(preset="pi05_libero", max_token_len=30)
    )
    config, record = checkpoint.config, checkpoint.record
    assert (config.action_horizon, config.max_token_len) == (10, 30)
    assert config.cameras == ("base_0_rgb", "left_wrist_0_rgb")
    assert (record.robot, record.normalisation, record.state_in_prompt) == ("libero", "quantile", False)


def test_record_overrules_preset(saved):
    assert load_checkpoint(saved, CheckpointOptions(preset="pi0_droid")).config.action_horizon == PI0.action_horizon


def test_wrong_preset(saved, tmp_path):
    refuses("preset 'pi0_librero': unknown; choose one of tiny, tiny-unvaried, .*pi0_base", saved, preset="pi0_librero")
    refuses("preset pi05_libero is a pi0.5, the checkpoint is a pi0; choose another", saved, preset="pi05_libero")


def test_presets_are_whole():
    for preset in PRESETS.values():
        assert preset.action_horizon > 0
        assert preset.max_token_len > 0
        assert set(preset.cameras) <= set(CAMERAS)


@pytest.mark.parametrize("name", ["tiny-drawn", "tiny-pi05"])
def test_seeded_presets(tmp_path, name):
    checkpoint = load_checkpoint(name, CheckpointOptions(action_horizon=7), dtype="float32")
    assert (checkpoint.kind, checkpoint.config.action_horizon, checkpoint.record.robot) == ("seeded", 7, "libero")
    assert checkpoint.record.normalisation == ("quantile" if checkpoint.config.pi05 else "zscore")
    folder = save_checkpoint(tmp_path / "a", checkpoint.params, checkpoint.config, Sidecars(record=checkpoint.record))
    assert load_checkpoint(folder, dtype="float32").config == checkpoint.config
    refuses("tiny.*: is whole by itself", name, preset="pi0_base")
    with pytest.raises(CheckpointError, match=f"{name}: its weights are drawn, not read"):
        open_source(name)


def test_the_bundled_policy_is_trained_and_small():
    checkpoint = load_checkpoint("tiny", dtype="float32")
    drawn = load_checkpoint("tiny-drawn", dtype="float32")
    assert (checkpoint.kind, checkpoint.config) == ("orbax", drawn.config)
    assert (checkpoint.record.robot, checkpoint.record.delta_actions) == ("libero", False)
    assert (checkpoint.record.norm_stats_count or 0) > 10_000
    assert checkpoint.record.trained_on == {"dataset": "fine_demonstrations", "render": "fast", "assets": "stand-in"}
    assert checkpoint.norm_stats is not None
    assert checkpoint.norm_stats["actions"].std[:3].min() > 0.1
    moved = [name for name, value in drawn.params.items() if not np.array_equal(value, checkpoint.params[name])]
    assert len(moved) == len(drawn.params)
    folder = Path(PRESETS["tiny"].location)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 16e6


@pytest.mark.parametrize("name", ["tiny-unvaried", "tiny-half-0", "tiny-half-1"])
def test_the_siblings_are_trained_otherwise(name):
    """Every parameter differs from `tiny`'s and from drawn ones, but for what is the same to the last bit of bfloat16."""
    checkpoint, tiny, drawn = (load_checkpoint(which, dtype="float32") for which in (name, "tiny", "tiny-drawn"))
    assert (checkpoint.config, checkpoint.record.robot) == (tiny.config, "libero")
    assert checkpoint.norm_stats is not None
    for other, at_least in ((drawn, len(drawn.params)), (tiny, len(tiny.params) - 5)):
        moved = [key for key, value in other.params.items() if not np.array_equal(value, checkpoint.params[key])]
        assert len(moved) >= at_least
    files = [file for file in Path(PRESETS[name].location).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4e6


def test_the_sibling_with_adapters_keeps_the_language_model():
    """As in the reference, adapters are trained instead of the experts' weights, and the rest as usual."""
    checkpoint, tiny = (load_checkpoint(which, dtype="float32") for which in ("tiny-lora", "tiny"))
    adapters = checkpoint.params.keys() - tiny.params.keys()
    assert len(adapters) == 20
    assert all("lora_" in key and np.any(checkpoint.params[key]) for key in adapters)
    same = {key for key, value in tiny.params.items() if np.array_equal(value, checkpoint.params[key])}
    matrices = ("einsum/w", "gating_einsum", "linear")
    layers = {
        key
        for key in tiny.params
        if "llm/layers" in key and key.partition("layers/")[2].replace("_1", "").endswith(matrices)
    }
    assert layers
    assert layers <= same
    assert not any("img" in key or "action_" in key for key in same)


def test_missing_folder(tmp_path):
    refuses(f"{tmp_path}/nothing: no such file or folder; expected a checkpoint", tmp_path / "nothing")
    refuses(
        "tinny: no such file or folder; .* check the path, or name a preset: tiny, tiny-unvaried, .*pi0_base, .*tiny-drawn",
        "tinny",
    )


def test_unfinished_saves(saved, tmp_path):
    begun = shutil.copytree(saved, tmp_path / "2000.orbax-checkpoint-tmp-1")
    refuses("2000.orbax-checkpoint-tmp-1: a save that never finished", begun)
    refuses("2000: missing, but 2000.orbax-checkpoint-tmp-1 is beside it", tmp_path / "2000")
    (begun / "params").rename(begun / "params.orbax-checkpoint-tmp-7")
    refuses("params.orbax-checkpoint-tmp-7: a save that never finished", begun.rename(tmp_path / "2000"))


def test_unfinished_downloads(copy, tmp_path):
    (tmp_path / "pi0_base.partial").mkdir()
    refuses("pi0_base: missing, but pi0_base.partial is beside it: a download", tmp_path / "pi0_base")
    left = copy / "params" / "d" / "abc.123.incomplete"
    left.write_bytes(b"half")
    refuses("abc.123.incomplete: left by a download that never finished; repeat the download", copy)


def test_lock_files_left_behind_do_not_matter(copy):
    (copy / "params" / "d" / "abc.lock").touch()
    copy.with_name("1000.lock").touch()
    assert load_checkpoint(copy).config.action_horizon == PI0.action_horizon


def test_folders_that_are_no_checkpoint(saved, tmp_path):
    for step in ("1000", "2000"):
        (tmp_path / "run" / step).mkdir(parents=True)
    refuses("it holds the steps 1000, 2000: name one", tmp_path / "run")
    (tmp_path / "notes.txt").touch()
    refuses(
        r"expected a checkpoint with params/, model.safetensors or model.safetensors.index.json; found notes.txt",
        tmp_path,
    )
    refuses("expected a checkpoint folder or a .safetensors file", tmp_path / "notes.txt")


def test_both_formats_in_one_folder(copy):
    (copy / "model.safetensors").touch()
    refuses("holds both params/ and model.safetensors: name the one", copy)
    assert load_checkpoint(copy / "params").kind == "orbax"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"state_proj/bias": None}, r"params: parameter state_proj/bias: missing; expected shape \(24,\)"),
        (
            {"state_proj/bias": np.zeros(25, np.float32)},
            r"parameter state_proj/bias: expected shape \(24,\), found \(25,\)",
        ),
        ({"state_proj/extra": np.zeros(2, np.float32)}, "parameter state_proj/extra: unknown to this architecture"),
        ({"PaliGemma/llm/embedder/input_embedding": None}, "input_embedding: missing; every Pi0 and Pi0.5 has it"),
    ],
    ids=["missing", "shape", "unknown", "another model"],
)
def test_parameters_that_fit_no_model(tmp_path, change, match):
    params = {name: array for name, array in {**draw(PI0), **change}.items() if array is not None}
    write_orbax(tmp_path / "params", params)
    refuses(match, tmp_path, action_horizon=5, max_token_len=12)


def test_save_refuses_parameters_of_another_configuration(tmp_path):
    with pytest.raises(ParameterError, match="Dense_0/bias: missing"):
        save_checkpoint(tmp_path / "a", draw(PI0), PI05)
    assert not list(tmp_path.iterdir())


def test_nan_weights_are_loaded_with_a_warning(tmp_path, caplog):
    params = draw(PI0)
    params["state_proj/kernel"][1, 2:4] = np.nan, np.inf
    folder = save_checkpoint(tmp_path / "a", params, PI0)
    for dtype in ("float32", "bfloat16"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            checkpoint = load_checkpoint(folder, dtype=dtype)
        assert "parameter state_proj/kernel: 2 of 192 values are NaN or infinite" in caplog.text
        assert not np.isfinite(np.asarray(checkpoint.params["state_proj/kernel"]).astype(np.float32)[1, 2:4]).any()


def test_norm_stats_of_another_width(tmp_path):
    stats = {"state": NormStats(np.zeros(9), np.ones(9))}
    folder = save_checkpoint(tmp_path / "a", draw(PI0), PI0, Sidecars(norm_stats=stats, asset_id="x"))
    refuses(r"assets/x/norm_stats.json: state: expected at most 8 numbers.*found 9", folder)


def test_norm_stats_must_be_chosen_among_several(copy):
    record = json.loads((copy / "vlascope.json").read_text())
    (copy / "vlascope.json").write_text(json.dumps({**record, "asset_id": None}))
    shutil.copytree(copy / "assets" / "lab" / "robot", copy / "assets" / "droid")
    assert load_checkpoint(copy).norm_stats is None
    assert load_checkpoint(copy, CheckpointOptions(asset_id="droid")).asset_id == "droid"
    refuses(r"assets/arm/norm_stats.json: missing; asset ids found: droid, lab/robot", copy, asset_id="arm")


def test_damaged_norm_stats(copy):
    (copy / "assets" / "lab" / "robot" / "norm_stats.json").write_text("{")
    refuses("norm_stats.json: expected JSON", copy)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "vlascope.json: expected JSON"),
        ('{"schema": 2}', "vlascope.json: expected a map with 'schema': 1, found 2; update vlascope"),
        ('{"schema": 1, "horizon": 3}', "vlascope.json: horizon: unknown; the fields are .*'action_horizon'"),
        ('{"schema": true}', "vlascope.json: expected a map with 'schema': 1, found True"),
        ("[1]", r"vlascope.json: expected a map, found \[1\]"),
        ('{"schema": 1, "action_horizon": 0}', "vlascope.json: action_horizon: expected more than 0, found 0"),
        ('{"schema": 1, "action_horizon": 5.0}', "vlascope.json: action_horizon: expected int | None, found 5.0"),
        ('{"schema": 1, "lora_alpha": NaN}', "vlascope.json: lora_alpha: expected float | None, found nan"),
        ('{"schema": 1, "lora_alpha": -1}', "vlascope.json: lora_alpha: expected more than 0, found -1"),
        (
            '{"schema": 1, "vision_heads": 99999999999}',
            "vlascope.json: vision_heads: expected int | None, found 99999999999",
        ),
        ('{"schema": 1, "cameras": "base_0_rgb"}', "vlascope.json: cameras: expected tuple.* found 'base_0_rgb'"),
        ('{"schema": 1, "delta_actions": 1}', "vlascope.json: delta_actions: expected bool | None, found 1"),
        ('{"schema": 1, "action_horizon": "5"}', "vlascope.json: action_horizon: expected int | None, found '5'"),
        (
            '{"schema": 1, "normalisation": "minmax"}',
            "vlascope.json: normalisation: expected .*'zscore'.*found 'minmax'",
        ),
        ('{"schema": 1, "cameras": ["base_0"], "action_horizon": 1, "max_token_len": 1}', "cameras: expected some of"),
        (
            '{"schema": 1, "image_size": 224, "action_horizon": 1, "max_token_len": 1}',
            "vlascope.json: image_size: it says 224 pixels, the parameters 56",
        ),
    ],
)
def test_bad_records(copy, content, match):
    (copy / "vlascope.json").write_text(content)
    refuses(match, copy)


def test_dtype(saved):
    refuses("dtype 'float16': expected one of float32, bfloat16", saved, dtype="float16")


def test_conversion_there_and_back_is_exact(saved, tmp_path):
    torch = convert_checkpoint(open_source(saved), tmp_path / "torch", "safetensors")
    orbax = convert_checkpoint(open_source(torch), tmp_path / "orbax", "orbax")
    first, last = (load_checkpoint(folder, dtype="float32") for folder in (saved, orbax))
    assert_same(last.params, draw(PI0))
    assert (last.config, last.record, last.asset_id) == (first.config, first.record, first.asset_id)
    stats = "assets/lab/robot/norm_stats.json"
    assert (orbax / stats).read_bytes() == (saved / stats).read_bytes()


def test_reference_conversion_there_and_back_is_exact(goldens, tmp_path):
    source = open_source(goldens / "openpi_orbax_pi0")
    torch = convert_checkpoint(source, tmp_path / "torch", "safetensors")
    orbax = open_source(convert_checkpoint(open_source(torch), tmp_path / "orbax", "orbax"))
    assert_same(
        {name: orbax.weights.read(name) for name in orbax.weights.shapes},
        {name: source.weights.read(name) for name in source.weights.shapes},
    )
    assert orbax.record.step == 29999
    assert orbax.record.action_horizon is None


def test_nothing_is_overwritten(saved, tmp_path):
    with pytest.raises(CheckpointError, match="1000: exists; expected a new folder"):
        convert_checkpoint(open_source(saved), saved, "orbax")
    with pytest.raises(CheckpointError, match="norm_stats and asset_id: expected both or neither"):
        Sidecars(asset_id="x")


def test_record_merges_field_by_field():
    merged = Record(robot="aloha", step=0).over(Record(robot="droid", step=5, kv_heads=1))
    assert merged == Record(robot="aloha", step=0, kv_heads=1)
