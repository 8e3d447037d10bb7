"""`vlascope-server inspect` and `convert` as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from vlascope_base.text import readable_bytes
from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.checkpoints.orbax_format import OrbaxWeights
from vlascope_server.checkpoints.torch_format import TorchWeights
from vlascope_server.commands import main
from vlascope_server.model.parameters import count, parameter_shapes

from .conftest import PI0, assert_same, draw


@pytest.fixture(autouse=True)
def no_weights_for_inspect(request, monkeypatch):
    """`inspect` must read metadata only."""
    if "inspect" in request.node.name:
        for format in (OrbaxWeights, TorchWeights):
            monkeypatch.delattr(format, "read")


def test_inspect_json(saved, capsys):
    assert main(["inspect", str(saved), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["kind"], out["model"]) == ("orbax", "pi0")
    assert out["architecture"]["vlm"]["width"] == PI0.vlm.width
    assert out["architecture"]["action_horizon"] == 5
    assert {group["component"] for group in out["groups"]} == {"vision", "vlm", "action expert", "projections"}
    assert out["total"] == {
        "component": "total",
        "group": "all",
        "tensors": len(parameter_shapes(PI0)),
        "elements": count(parameter_shapes(PI0)),
        "bytes": 4 * count(parameter_shapes(PI0)),
        "dtypes": ["float32"],
    }
    assert out["norm_stats"]["lab/robot"]["state"] == {"width": 8, "quantiles": True}
    assert (out["record"]["step"], out["record"]["norm_stats_count"]) == (1000, 123)


def test_inspect_table(saved, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(saved)]) == 0
    captured = capsys.readouterr()
    for text in (
        "pi0, orbax",
        "action expert",
        "attention",
        f"{count(parameter_shapes(PI0)):,}",
        "lab/robot",
        "libero",
    ):
        assert text in captured.out
    assert captured.err == ""
    assert main(["inspect", str(saved), "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["inspect"]["checkpoint"] == str(saved)


def test_inspect_cuts_no_name_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["inspect", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    cells = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    names = "".join(row[2] for row in cells if len(row) == 8)
    for part in "in", "out":
        assert f"action_time_mlp_{part}" in names


@pytest.mark.parametrize("folder", ["openpi_orbax_pi0", "openpi_orbax_pure", "openpi_torch_pi0", "openpi_torch_pi05"])
def test_inspect_the_references(goldens, capsys, folder):
    assert main(["inspect", str(goldens / folder), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["model"] == ("pi0.5" if folder.endswith("pi05") else "pi0")
    assert out["kind"] == ("orbax" if "orbax" in folder else "safetensors")
    assert out["total"]["elements"] == (576_928 if folder.endswith("pi05") else 471_392)
    horizon = {"openpi_torch_pi0": 50, "openpi_torch_pi05": 10}  # which config.json says
    assert out["architecture"]["action_horizon"] == horizon.get(folder)
    assert out["record"]["step"] == (29999 if folder == "openpi_orbax_pi0" else None)


def test_convert_there_and_back(saved, tmp_path, capsys):
    torch, orbax = tmp_path / "torch", tmp_path / "orbax"
    assert main(["convert", str(saved), str(torch), "--to", "safetensors"]) == 0
    assert main(["convert", str(torch), str(orbax), "--to", "orbax"]) == 0
    assert_same(load_checkpoint(orbax, dtype="float32").params, draw(PI0))
    options = json.loads((torch / "convert.json").read_text())
    assert options["source"] == str(saved)
    assert options["to"] == "safetensors"
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(torch), str(orbax)]
    assert f"writing about {readable_bytes(4 * count(parameter_shapes(PI0)))} to {torch}" in captured.err


def test_convert_to_bfloat16(saved, tmp_path):
    assert main(["convert", str(saved), str(tmp_path / "half"), "--to", "orbax", "--dtype", "bfloat16"]) == 0
    assert set(OrbaxWeights(tmp_path / "half" / "params").dtypes.values()) == {"bfloat16"}


def test_errors_are_one_line_and_exit_code_2(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "params" / "_METADATA").unlink()
    command = [sys.executable, "-m", "vlascope_server", "inspect", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (error,) = done.stderr.splitlines()
    assert error.startswith("vlascope-server: ")
    assert "_METADATA: missing" in error


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert main(["convert", "tiny", str(in_the_way / "tiny"), "--to", "safetensors"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"vlascope-server: {in_the_way}")
    assert "directory" in error
