"""`drawn:SEED --like CHECKPOINT`: everything is that checkpoint's but the weights, which follow from the seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from vlascope_server.checkpoints import CheckpointError, load_checkpoint, open_source
from vlascope_server.commands import main
from vlascope_server.model import init_params
from vlascope_server.options import CheckpointOptions

from .conftest import PI0, assert_same


def loaded(location: str, like, **more):
    return load_checkpoint(location, CheckpointOptions(like=None if like is None else str(like)), **more)


def refused(call, *parts: str) -> None:
    with pytest.raises(CheckpointError) as error:
        call()
    message = error.value.for_command()
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_only_the_weights_are_others(saved):
    drawn, like = loaded("drawn:3", saved, dtype="float32"), load_checkpoint(saved, dtype="float32")
    assert_same(
        {name: np.asarray(array) for name, array in drawn.params.items()},
        {name: np.asarray(array) for name, array in init_params(PI0, 3).items()},
    )
    differing = [
        name
        for name in like.params
        if not np.array_equal(np.asarray(like.params[name]), np.asarray(drawn.params[name]))
    ]
    assert len(differing) == len(like.params)  # none of the fixture's is constant
    assert drawn.config == like.config
    assert (drawn.asset_id, drawn.asset_ids, drawn.tokenizer) == (like.asset_id, like.asset_ids, like.tokenizer)
    assert drawn.norm_stats is not None
    assert like.norm_stats is not None
    for quantity, stats in like.norm_stats.items():
        np.testing.assert_array_equal(drawn.norm_stats[quantity].std, stats.std)
    assert (drawn.record.robot, drawn.record.normalisation) == (like.record.robot, like.record.normalisation)
    assert (drawn.record.norm_stats_count, like.record.step, drawn.record.step) == (123, 1000, None)
    assert (drawn.drawn, like.drawn) == (f"drawn:3 like {saved}", None)


def test_weights_follow_from_the_seed(saved):
    first, again, other = (loaded(f"drawn:{seed}", saved).params for seed in (3, 3, 4))
    names = [name for name in first if np.asarray(first[name]).std() > 0]
    assert {name.rsplit("/", 1)[-1] for name in first if name not in names} == {
        "bias",
        "scale",
    }  # drawn as zeros and ones
    for name in names:
        assert np.asarray(first[name]).tobytes() == np.asarray(again[name]).tobytes()
        assert np.asarray(first[name]).tobytes() != np.asarray(other[name]).tobytes()


def test_inspect_says_what_it_is(saved, capsys):
    assert main(["inspect", "drawn:3", "--like", str(saved), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["path"], out["kind"], out["model"]) == (f"drawn:3 like {saved}", "drawn, as orbax", "pi0")
    assert main(["inspect", str(saved), "--json"]) == 0
    like = json.loads(capsys.readouterr().out)
    assert (out["groups"], out["norm_stats"]) == (like["groups"], like["norm_stats"])


def test_convert_writes_them(saved, tmp_path):
    assert main(["convert", "drawn:3", str(tmp_path / "out"), "--like", str(saved), "--to", "safetensors"]) == 0
    written = load_checkpoint(tmp_path / "out", dtype="float32")
    assert_same(
        {name: np.asarray(array) for name, array in written.params.items()},
        {name: np.asarray(array) for name, array in init_params(PI0, 3).items()},
    )


def test_what_is_asked_for_has_to_go_together(saved, capsys):
    refused(lambda: loaded("drawn:3", None), "drawn:3: does not say whose", "name that checkpoint with --like")
    refused(lambda: loaded(str(saved), saved), "is read with its own weights", "leave --like away")
    refused(lambda: loaded("tiny-drawn", "tiny"), "tiny-drawn: is read with its own weights")
    refused(lambda: loaded("drawn:", saved), "whole number", "found ''")
    refused(lambda: loaded("drawn:-1", saved), "whole number", "found '-1'")
    refused(lambda: loaded(f"drawn:{2**63}", saved), "2^63-1")
    refused(lambda: loaded("drawn:3", "no/such"), "no/such")
    refused(lambda: open_source("drawn:3", like="tiny-drawn"), "its weights are drawn, not read")
    assert main(["inspect", "drawn:3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "name that checkpoint with --like" in line


def test_a_mix_takes_them_beside_others(saved, tmp_path):
    command = ["mix", "--checkpoints", str(saved), "drawn:3", "--like", str(saved), "--optimize_method", "average"]
    assert main([*command, "--output", str(tmp_path / "mixed")]) == 0
    said = json.loads((tmp_path / "mixed" / "mix.json").read_text())
    assert [entry["path"] for entry in said["inputs"]] == [str(saved / "params"), f"drawn:3 like {saved}"]
