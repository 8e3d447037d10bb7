"""A conversion keeps what the file holds, and touches nothing that is not its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vlascope_server.checkpoints import CheckpointError, load_checkpoint
from vlascope_server.commands import main

LAYER = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for kind in ("safetensors", "lerobot"):
        assert main(["convert", "tiny", str(folder / kind), "--to", kind]) == 0
    return folder


@pytest.fixture
def source(sources, tmp_path):
    """A copy of one of them, to be changed."""
    return lambda kind: shutil.copytree(sources / kind, tmp_path / kind)


def test_layers_of_several_dtypes_are_kept_exactly(source, tmp_path):
    path = source("safetensors")
    tensors = load_file(path / "model.safetensors")
    fine = np.random.default_rng(0).standard_normal(tensors[LAYER].shape, np.float32)
    assert tensors[LAYER].dtype == ml_dtypes.bfloat16
    save_file(tensors | {LAYER: fine}, path / "model.safetensors")
    assert main(["convert", str(path), str(tmp_path / "new"), "--to", "safetensors"]) == 0
    np.testing.assert_array_equal(load_file(tmp_path / "new/model.safetensors")[LAYER], fine)
    other = LAYER.replace("layers.1.", "layers.2.")
    kept = load_file(tmp_path / "new/model.safetensors")[other]
    np.testing.assert_array_equal(kept.astype(np.float32), tensors[other].astype(np.float32))


def test_a_layer_of_integers_is_no_parameter(source, capsys):
    path = source("safetensors")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {LAYER: np.ones(tensors[LAYER].shape, np.int8)}, path / "model.safetensors")
    assert main(["inspect", str(path)]) == 2
    assert f"tensor {LAYER}: expected one of" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_looks_like_an_unfinished_save_is_somebodys(tmp_path):
    (tmp_path / "keep.partial").mkdir()
    (tmp_path / "keep.partial/precious").write_text("1")
    assert main(["convert", "tiny", str(tmp_path / "keep"), "--to", "safetensors"]) == 0
    assert (tmp_path / "keep.partial/precious").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep", "keep.partial"]


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    host = socket.gethostname().partition(".")[0]
    left = tmp_path / f"new.{host}-{int(gone.stdout)}-0123abcd.partial"
    running = tmp_path / f"new.{host}-{os.getppid()}-0123abcd.partial"
    elsewhere = tmp_path / "new.another-1-0123abcd.partial"
    for folder in (left, running, elsewhere):
        folder.mkdir()
    assert main(["convert", "tiny", str(tmp_path / "new"), "--to", "safetensors"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["new", running.name, elsewhere.name])


def test_two_conversions_to_one_place(tmp_path):
    """One of them is told so, and what is there is whole."""

    def convert(_):
        return main(["convert", "tiny", str(tmp_path / "race"), "--to", "safetensors"])

    with ThreadPoolExecutor(2) as pool:
        ended = sorted(pool.map(convert, range(2)))
    assert ended == [0, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["race"]
    assert load_checkpoint(str(tmp_path / "race")).norm_stats is not None


@pytest.mark.parametrize("folder", [".", ""])
def test_no_name_is_no_new_folder(folder, capsys):
    assert main(["convert", "tiny", folder, "--to", "orbax"]) == 2
    assert "exists; expected a new folder" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("lost", ["type", "file"])
def test_processors_without_their_config_are_not_passed_over(source, lost):
    path = source("lerobot")
    if lost == "file":
        (path / "config.json").unlink()
    else:
        content = json.loads((path / "config.json").read_text())
        del content["type"]
        (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"holds LeRobot's policy_preprocessor\.json, and no config\.json whose type"
    ):
        load_checkpoint(str(path))


@pytest.mark.parametrize("name", ["**", "a[b", "x?"])
def test_names_that_mean_something_to_a_shell(tmp_path, name):
    (tmp_path / "anything.partial").mkdir()
    with pytest.raises(CheckpointError, match=r"no such|missing") as error:
        load_checkpoint(str(tmp_path / name))
    assert "anything" not in str(error.value)
