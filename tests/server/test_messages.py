"""What messages ask for is there: an option of the command, an argument in Python."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import vlascope_server
from vlascope_server.checkpoints import CheckpointError, load_checkpoint
from vlascope_server.commands.cache import Cache
from vlascope_server.commands.capture import Capture
from vlascope_server.commands.convert import Convert
from vlascope_server.commands.diff import Diff
from vlascope_server.commands.dump_data import DumpData
from vlascope_server.commands.inspect import Inspect
from vlascope_server.commands.mix import Mix
from vlascope_server.commands.serve import Serve
from vlascope_server.commands.train import Train
from vlascope_server.options import CheckpointOptions
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.serving.options import Limits

ROOT = Path(vlascope_server.__file__).parent
ARGUMENTS = {
    name
    for path in ROOT.rglob("*.py")
    for name in re.findall(r"<([a-z]+_[a-z_]+|preset|robot)>", path.read_text("utf-8"))
}
OF_OTHERS = {"include", "local-dir", "save-observations"}
"""Of the Hugging Face hub's own command, and of `vlascope-sim rollout`."""
OPTIONS = {
    (path.relative_to(ROOT).as_posix(), option)
    for path in ROOT.rglob("*.py")
    for option in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", path.read_text("utf-8"))
    if option not in OF_OTHERS
}


def fields(command) -> set[str]:
    """The options of a command; `serve` and `capture` hold those of the policy, and of limits, in dataclasses of their own."""
    parts = {Serve: (Serve, PolicyOptions, Limits), Capture: (Capture, PolicyOptions)}.get(command, (command,))
    return {field.name for part in parts for field in dataclasses.fields(part)}


def test_both_spellings():
    error = CheckpointError("x: action_horizon: not known", "give <action_horizon>, or a <preset>")
    assert str(error) == "x: action_horizon: not known; give action_horizon=, or a preset="
    assert error.for_command() == "x: action_horizon: not known; give --action-horizon, or a --preset"
    assert str(CheckpointError("x: <y> is damaged")) == "x: <y> is damaged"


def test_arguments_are_there():
    assert {"action_horizon", "asset_id", "preset", "robot"} <= ARGUMENTS
    of_diff = {"merge_lora", "common_only"}
    assert of_diff <= ARGUMENTS & fields(Diff)
    for name in (
        (ARGUMENTS | {"max_token_len"}) - {"delta_actions"} - of_diff
    ):  # `convert --to lerobot` asks for the first
        assert name in {*inspect.signature(load_checkpoint).parameters, *fields(CheckpointOptions)}
        assert name in fields(Serve)
        assert name in fields(Train)
        assert name in fields(PolicyOptions)
    for name in ARGUMENTS - {"robot"} - of_diff:  # whose robot it is, `convert` never asks
        assert name in fields(Convert)


@pytest.mark.parametrize(("path", "option"), sorted(OPTIONS))
def test_options_are_there(path, option):
    """A file of training speaks of `train`, one of serving of `serve`; the others of any command."""
    commands = {
        "training": (Train,), "serving": (Serve,), "policies": (Serve, Train), "mixing": (Mix, DumpData),
        "torch_checkpoints": (Inspect,), "capturing": (Capture,),
    }  # fmt: skip
    known = commands.get(path.split("/")[0], (Serve, Train, Convert, Cache, Capture, Inspect, Mix, DumpData))
    name = option.replace("-", "_").removeprefix("no_")
    assert any(name in fields(command) for command in known), f"{path}: --{option}"
