"""`config.json` of openpi's converter, and who may say otherwise."""

from __future__ import annotations

import json
import logging

import pytest
from vlascope_server.checkpoints import CheckpointError, load_checkpoint, open_source, save_checkpoint
from vlascope_server.commands import main
from vlascope_server.options import CheckpointOptions

from .conftest import PI0, draw

OPENPI = {
    "action_dim": 8,
    "action_horizon": 5,
    "paligemma_variant": "gemma_2b",
    "action_expert_variant": "gemma_300m",
    "precision": "bfloat16",
}


@pytest.fixture(params=["safetensors", "orbax"])
def converted(request, tmp_path):
    """A checkpoint with openpi's `config.json` instead of `vlascope.json`."""
    folder = save_checkpoint(tmp_path / "converted", draw(PI0), PI0, kind=request.param)
    (folder / "vlascope.json").unlink()
    (folder / "config.json").write_text(json.dumps(OPENPI))
    return folder


def test_the_horizon_is_read(converted, caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint = load_checkpoint(converted, CheckpointOptions(max_token_len=12))
    assert checkpoint.config.action_horizon == 5
    assert checkpoint.kind in ("safetensors", "orbax")
    # the sizes are the parameters' own, whatever name they are given
    assert "config.json: paligemma_variant: gemma_2b is 2048 wide, and the parameters are 48 wide" in caplog.text


def test_who_contradicts_it_is_refused(converted):
    def refuses(match, **options):
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(converted, CheckpointOptions(max_token_len=12, **options))
        assert match in str(error.value)
        assert "\n" not in str(error.value)

    path = converted / "config.json"
    refuses(
        f"{path}: action_horizon: it says 5, and preset pi0_base says action_horizon 50; leave preset= away",
        preset="pi0_base",
    )
    refuses(f"{path}: action_horizon: it says 5, and action_horizon 50 was asked for", action_horizon=50)
    assert load_checkpoint(converted, CheckpointOptions(action_horizon=5, max_token_len=12)).config.action_horizon == 5
    (converted / "vlascope.json").write_text('{"schema": 1, "action_horizon": 6}')
    refuses(f"it says 5, and {converted / 'vlascope.json'} says action_horizon 6; correct the one that is wrong")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"action_horizon": None}, "config.json: action_horizon: expected a whole number of at least 1, found None"),
        ({"action_horizon": "50"}, "config.json: action_horizon: expected a whole number of at least 1, found '50'"),
        (
            {"action_horizon": float("nan")},
            "config.json: action_horizon: expected a whole number of at least 1, found nan",
        ),
        ({"action_horizon": -1}, "config.json: action_horizon: expected a whole number of at least 1, found -1"),
        ({"action_horizon": [5]}, "config.json: action_horizon: expected a whole number of at least 1, found [5]"),
        ({"action_dim": 32}, "config.json: action_dim: it says 32, and the parameters beside it are 8 wide"),
        ({"paligemma_variant": 2}, "config.json: paligemma_variant: expected a text, found 2"),
        ({"precision": "int8"}, "config.json: precision: expected one of float32, bfloat16, float16, found 'int8'"),
    ],
)
def test_its_fields_are_checked_not_coerced(converted, change, match):
    (converted / "config.json").write_text(json.dumps({**OPENPI, **change}))
    with pytest.raises(CheckpointError) as error:
        open_source(converted)
    assert match in str(error.value)
    assert str(error.value).startswith(str(converted))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "config.json: expected JSON"),
        ("[]", "config.json: expected a map, found []"),
        ("[" * 10000, "config.json: expected JSON"),
    ],
    ids=["cut off", "a list", "deep"],
)
def test_a_file_that_is_no_map(converted, content, match):
    (converted / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=match.replace("[", r"\[")):
        open_source(converted)


def test_the_file_of_something_else_is_left_alone(converted):
    (converted / "config.json").write_text('{"model_type": "gemma", "hidden_size": "48"}')
    assert open_source(converted).record.action_horizon is None


def test_the_options_that_messages_ask_for(converted, tmp_path, capsys):
    """`serve`'s own message; then `convert` with what it asked for."""
    (converted / "config.json").unlink()
    assert main(["serve", "--checkpoint", str(converted), "--robot", "libero"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(
            f"vlascope-server: {converted}: action_horizon and max_token_len: neither vlascope.json nor config.json says, and"
            " the parameters do not tell; give --action-horizon and --max-token-len, or --preset, one of tiny, "
        )
    )
    lengths = ["--action-horizon", "5", "--max-token-len", "12"]
    assert main(["serve", "--checkpoint", str(converted), "--robot", "libero", *lengths]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(
            "vlascope-server: converted: has no statistics to normalise states and actions with; expected a norm_stats.json"
        )
    )
    assert main(["convert", str(converted), str(tmp_path / "out"), "--to", "orbax", *lengths]) == 0
    config = load_checkpoint(tmp_path / "out").config
    assert (config.action_horizon, config.max_token_len) == (5, 12)
    assert main(["convert", str(converted), str(tmp_path / "no"), "--to", "orbax", "--action-horizon", "0"]) == 2
    assert "action_horizon: expected at least 1, found 0; give another --action-horizon" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
