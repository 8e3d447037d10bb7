"""Which statistics a checkpoint has, wherever they lie, and what is said where there are none or too many."""

from __future__ import annotations

import json
import shutil

import pytest
from vlascope_server.checkpoints import CheckpointError, convert_checkpoint, load_checkpoint, open_source
from vlascope_server.commands import main
from vlascope_server.options import CheckpointOptions
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.policy import Pi0Policy


@pytest.fixture
def copy(saved, tmp_path):
    """A checkpoint of which nobody says which statistics are its own."""
    folder = shutil.copytree(saved, tmp_path / "1000")
    record = json.loads((folder / "vlascope.json").read_text())
    (folder / "vlascope.json").write_text(json.dumps({**record, "asset_id": None}))
    return folder


@pytest.fixture
def beside(copy):
    """Its statistics beside the parameters, and nowhere else."""
    shutil.move(copy / "assets" / "lab" / "robot" / "norm_stats.json", copy)
    shutil.rmtree(copy / "assets")
    return copy


@pytest.mark.parametrize("kind", ["orbax", "safetensors"])
def test_beside_the_parameters(beside, tmp_path, kind):
    folder = convert_checkpoint(open_source(beside), tmp_path / "out", kind)
    assert (folder / "norm_stats.json").read_bytes() == (beside / "norm_stats.json").read_bytes()
    for place in (folder, folder / ("params" if kind == "orbax" else "model.safetensors")):
        checkpoint = load_checkpoint(place)
        assert (checkpoint.asset_id, checkpoint.asset_ids) == ("beside", ("beside",))
        assert checkpoint.norm_stats is not None
        assert checkpoint.norm_stats["actions"].width == 7


def test_inspect_shows_them(beside, capsys):
    assert main(["inspect", str(beside), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["norm_stats"]) == ["beside"]


def test_another_id_than_there_is(beside):
    with pytest.raises(
        CheckpointError, match=r"missing; asset ids found: beside \(beside the parameters\); name one of these with"
    ):
        load_checkpoint(beside, CheckpointOptions(asset_id="droid"))


def test_messages_say_what_there_is(copy):
    """There are two and nobody chose; then there are none."""
    shutil.copytree(copy / "assets" / "lab" / "robot", copy / "assets" / "droid")
    with pytest.raises(CheckpointError) as error:
        Pi0Policy.load(str(copy))
    assert str(error.value) == "1000: has the statistics of droid, lab/robot; choose with asset_id="
    assert error.value.for_command() == "1000: has the statistics of droid, lab/robot; choose with --asset-id"
    shutil.rmtree(copy / "assets")
    with pytest.raises(
        CheckpointError, match="1000: has no statistics to normalise states and actions with; expected a norm_stats"
    ):
        Pi0Policy.load(str(copy), PolicyOptions())
    with pytest.raises(CheckpointError, match="asset ids found: none; copy the file there"):
        load_checkpoint(copy, CheckpointOptions(asset_id="droid"))


def test_statistics_of_other_things_are_left_alone(beside):
    path = beside / "norm_stats.json"
    content = json.loads(path.read_text())
    content["norm_stats"]["tactile"] = {"mean": None, "histogram": [1, 2]}
    path.write_text(json.dumps(content))
    checkpoint = load_checkpoint(beside)
    assert checkpoint.norm_stats is not None
    assert list(checkpoint.norm_stats) == ["state", "actions"]
