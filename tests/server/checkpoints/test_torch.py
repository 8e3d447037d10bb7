"""The torch format: rules against the reference's own table, exact round trips, files of other models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from vlascope_server.checkpoints import CheckpointError, load_checkpoint, save_checkpoint, torch_names
from vlascope_server.checkpoints.torch_format import TorchWeights, write_torch
from vlascope_server.model import parameter_shapes
from vlascope_server.model.config import full_size
from vlascope_server.options import CheckpointOptions

from .conftest import LORA, PI0, PI05, assert_same, draw


@pytest.fixture(scope="module")
def table(goldens):
    return json.loads((goldens / "torch_names.json").read_text())


@pytest.mark.parametrize("variant", ["mini_pi0", "mini_pi05"])
def test_rules_against_the_references_table(table, variant):
    """Every element goes where the reference's converter puts it: arrays that count their own elements."""
    for row in table["tables"][variant]:
        x = np.arange(np.prod(row["shape"], dtype=np.int64)).reshape(row["shape"])
        rule = torch_names.rule(row["jax"])
        ours = {name: rule.axes.to_torch(x[index]) for name, index in rule.places(x.shape)}
        assert ours.keys() == {entry["name"] for entry in row["torch"]}
        back = np.empty_like(x)
        for name, index in rule.places(x.shape):
            back[index] = rule.axes.to_jax(ours[name], x.shape[rule.index_axes :])
        np.testing.assert_array_equal(back, x)
        for entry in row["torch"]:
            part = x if entry["index"] is None else x[tuple(entry["index"])]
            expected = eval(entry["to_torch"], {"x": part, "s": part.shape})  # noqa: S307 the table's own numpy
            np.testing.assert_array_equal(ours[entry["name"]], expected, err_msg=entry["name"])


@pytest.mark.parametrize("pi05", [False, True], ids=["pi0", "pi05"])
def test_rules_at_full_size(table, pi05):
    entry = table["full_size"]["pi05" if pi05 else "pi0"]
    expected = {tensor["name"]: tuple(tensor["shape"]) for tensor in entry["torch"]}
    ours = {}
    for name, shape in parameter_shapes(full_size(pi05=pi05)).items():
        rule = torch_names.rule(name)
        part = np.broadcast_to(np.zeros((), np.uint8), shape[rule.index_axes :])
        ours |= {tensor: rule.axes.to_torch(part).shape for tensor, _ in rule.places(shape)}
    assert ours == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [PI0, PI05], ids=["pi0", "pi05"])
def test_round_trip_is_exact(tmp_path, config, dtype):
    params = draw(config, dtype)
    save_checkpoint(tmp_path / "saved", params, config, kind="safetensors")
    for given in ("", "model.safetensors"):
        checkpoint = load_checkpoint(tmp_path / "saved" / given, dtype=dtype)
        assert_same(checkpoint.params, params)
        assert dataclasses.replace(checkpoint.config, dtype=config.dtype) == config


def test_several_kv_heads_and_unusual_vision_heads(tmp_path):
    """What merged axes hide comes back from vlascope.json."""
    vlm, action = (dataclasses.replace(g, num_kv_heads=2) for g in (PI0.vlm, PI0.action))
    vision = dataclasses.replace(PI0.vision, width=36, num_heads=3)
    config = dataclasses.replace(PI0, vlm=vlm, action=action, vision=vision)
    params = draw(config)
    save_checkpoint(tmp_path / "saved", params, config, kind="safetensors")
    assert_same(load_checkpoint(tmp_path / "saved", dtype="float32").params, params)
    with pytest.raises(
        CheckpointError, match=r'width 36 is none of the published ones.*vlascope.json.*"vision_heads": 4}'
    ):
        TorchWeights(tmp_path / "saved" / "model.safetensors")


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_we_write_the_tensors_that_the_reference_writes(goldens, tmp_path, variant):
    reference = goldens / f"openpi_torch_{variant}" / "model.safetensors"
    weights = TorchWeights(reference)
    write_torch(tmp_path / "ours", ((name, weights.read(name)) for name in weights.shapes))
    ours, theirs = load_file(tmp_path / "ours"), load_file(reference)
    ours.pop(torch_names.EXPERT_LM_HEAD)
    noise = theirs.pop(torch_names.EXPERT_LM_HEAD)
    assert_same(ours, theirs)
    with safe_open(tmp_path / "ours", "np") as a, safe_open(reference, "np") as b:
        assert a.metadata() == b.metadata()
        assert a.get_tensor(torch_names.EXPERT_LM_HEAD).shape == noise.shape


def test_reference_torch_is_the_reference_orbax(goldens):
    both = (
        load_checkpoint(goldens / folder, CheckpointOptions(action_horizon=50, max_token_len=48), dtype="float32")
        for folder in ("openpi_torch_pi0", "openpi_orbax_pi0")
    )
    torch, orbax = ({name: np.asarray(value) for name, value in checkpoint.params.items()} for checkpoint in both)
    assert_same(torch, orbax)


def test_lora_has_no_torch_form(tmp_path):
    with pytest.raises(CheckpointError, match=r"parameter PaliGemma/.*lora_a: the PyTorch format has no LoRA.*orbax"):
        save_checkpoint(tmp_path / "saved", draw(LORA), LORA, kind="safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def file(tmp_path):
    """Tensors of a good file, and a function that writes them and opens the result."""
    path = tmp_path / "model.safetensors"
    write_torch(path, draw(PI0).items())
    tensors = load_file(path)

    def reopen(changes):
        save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, path)
        return TorchWeights(path)

    return reopen


def test_untied_embedding_is_read_under_either_name(file, tmp_path):
    embedding = load_file(tmp_path / "model.safetensors")[torch_names.LM_HEAD]
    weights = file({torch_names.EMBEDDING: embedding, torch_names.LM_HEAD: None, torch_names.EXPERT_LM_HEAD: None})
    np.testing.assert_array_equal(weights.read("PaliGemma/llm/embedder/input_embedding"), embedding)


def test_missing_tensor(file):
    name = "paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"
    with pytest.raises(CheckpointError, match=rf"tensor {name}: missing; expected the reference's Pi0"):
        file({name: None})


def test_wrong_shape(file):
    name = "paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"
    with pytest.raises(CheckpointError, match=rf"tensor {name}: expected shape \(56, 24\), found \(56, 25\)"):
        file({name: np.zeros((56, 25), np.float32)})


def test_unknown_tensor(file):
    with pytest.raises(CheckpointError, match="tensor extra: unknown to the reference's Pi0"):
        file({"extra": np.zeros(3, np.float32)})


def test_another_model(tmp_path):
    save_file({"transformer.wte.weight": np.zeros((4, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found 1 tensors such as transformer.wte.weight: this is another model"):
        TorchWeights(tmp_path / "model.safetensors")


def test_cut_off_file(file, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors: expected a whole safetensors file.*copy it again"):
        TorchWeights(path)
