"""Parameters in several safetensors files with an index, and indices that are not to be trusted."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file
from vlascope_server.checkpoints import (
    CheckpointError,
    convert_checkpoint,
    load_checkpoint,
    open_source,
    save_checkpoint,
)

from .conftest import PI0, assert_same, draw

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint in three files, as transformers splits one."""
    folder = save_checkpoint(tmp_path / "sharded", draw(PI0), PI0, kind="safetensors")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    places = {tensor: names[i % 3] for i, tensor in enumerate(sorted(tensors))}
    for name in names:
        save_file({tensor: tensors[tensor] for tensor, place in places.items() if place == name}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


def test_sharded_parameters_load_and_are_converted(sharded, tmp_path):
    for place in (sharded, sharded / INDEX):
        checkpoint = load_checkpoint(place, dtype="float32")
        assert_same(checkpoint.params, draw(PI0))
        assert checkpoint.kind == "safetensors"
    whole = convert_checkpoint(open_source(sharded), tmp_path / "whole", "safetensors")
    assert_same(load_checkpoint(whole, dtype="float32").params, draw(PI0))


def refuses(match, folder):
    with pytest.raises(CheckpointError) as error:
        open_source(folder)
    assert match in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refuses(f"model-00002-of-00003.safetensors: missing; {INDEX} says that it holds", sharded)


def test_a_cut_off_file(sharded):
    path = sharded / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refuses("model-00003-of-00003.safetensors: expected a whole safetensors file", sharded)


def test_a_tensor_that_is_not_where_the_index_says(sharded):
    content = json.loads((sharded / INDEX).read_text())
    tensor = "state_proj.bias"
    other = {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"} - {content["weight_map"][tensor]}
    content["weight_map"][tensor] = min(other)
    (sharded / INDEX).write_text(json.dumps(content))
    refuses(f"{min(other)}: tensor state_proj.bias: missing, and {INDEX} says that it is here", sharded)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "x.bin", "a\\b.safetensors"]
)
def test_a_name_that_leaves_the_folder(sharded, name):
    shutil.copyfile(sharded / "model-00001-of-00003.safetensors", sharded.parent / "x.safetensors")
    content = json.loads((sharded / INDEX).read_text())
    content["weight_map"]["state_proj.bias"] = name
    (sharded / INDEX).write_text(json.dumps(content))
    refuses("weight_map.state_proj.bias: expected the name of a .safetensors file in the same folder, found", sharded)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", f"{INDEX}: expected JSON"),
        ("{}", f"{INDEX}: weight_map: expected a map from tensors to files, found none"),
        ('{"weight_map": {}}', f"{INDEX}: weight_map: expected a map from tensors to files, found none"),
        ('{"weight_map": [1]}', f"{INDEX}: weight_map: expected a map, found [1]"),
        ('{"weight_map": {"a": null}}', f"{INDEX}: weight_map.a: expected a text, found None"),
    ],
)
def test_an_index_that_is_none(sharded, content, match):
    (sharded / INDEX).write_text(content)
    refuses(match, sharded)


def test_one_of_several_files(sharded):
    refuses(
        f"is one of several files that hold the parameters together; name {sharded}",
        sharded / "model-00001-of-00003.safetensors",
    )


def test_both_an_index_and_one_file(sharded):
    (sharded / "model.safetensors").touch()
    refuses(f"holds both model.safetensors and {INDEX}: name the one", sharded)
