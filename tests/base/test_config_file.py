"""Options whose defaults come from a file of any command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import OmitArgPrefixes, Positional
from vlascope_base.command import run_command
from vlascope_base.options import UNRECORDED, Bytes, CommandOptions, ConfigFile, NumbersOrAll


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Some that belong together."""

    most: int = 64
    """At most."""
    room: Bytes = 10**9
    """How much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Act(CommandOptions, ConfigFile):
    """Acts."""

    store: Positional[Path]
    """Where."""
    kind: Literal["a", "b"]
    """How."""
    limits: OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)
    numbers: NumbersOrAll = None
    """Which."""
    bounds: tuple[int, int] | None = None
    """From and to."""
    rate: float = 0.5
    """How fast."""
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of words."""
    switch: bool = False
    """Whether."""

    def __post_init__(self):
        """A class may refuse what is not complete."""
        assert isinstance(self.store, Path)

    def run(self):
        shown = dataclasses.asdict(self)
        print(json.dumps({name: shown[name] for name in shown if name not in (*UNRECORDED, "log_level")}, default=str))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other(CommandOptions):
    """Does something else."""

    def run(self):
        pass


def act(*args: object) -> int:
    return run_command("vlascope-base", "A command.", {"act": Act, "other": Other}, ["act", *map(str, args)])


def shown(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


EVERYTHING = """
store: runs
kind: b
most: 8
room: 2GB
numbers: 0-2,7
bounds: [1, 3]
rate: 1e-4
pairs: {x: y}
switch: true
log-level: warning
"""


def test_a_files_values_are_the_defaults_of_nested_options_too(tmp_path, capsys):
    file = tmp_path / "act.yaml"
    file.write_text(EVERYTHING)
    assert act("--config", file) == 0
    found = {
        "store": "runs", "kind": "b", "limits": {"most": 8, "room": 2 * 10**9}, "numbers": [0, 1, 2, 7], "bounds": [1, 3],
        "rate": 1e-4, "pairs": {"x": "y"}, "switch": True,
    }  # fmt: skip
    assert shown(capsys) == found
    assert act("elsewhere", "--config", file, "--most", "9", "--kind", "a", "--no-switch", "--numbers", "all") == 0
    over = {"store": "elsewhere", "kind": "a", "numbers": None, "switch": False}
    assert shown(capsys) == {**found, **over, "limits": {"most": 9, "room": 2 * 10**9}}


def test_what_is_required_may_be_in_the_file_or_not(tmp_path, capsys):
    file = tmp_path / "act.yaml"
    file.write_text("most: 8")
    assert act("runs", "--kind", "a", "--config", file) == 0
    assert shown(capsys)["limits"] == {"most": 8, "room": 10**9}
    with pytest.raises(SystemExit) as end:
        act("runs", "--config", file)
    assert end.value.code == 2
    assert "--kind" in "".join(capsys.readouterr())


def test_help_shows_the_files_values(tmp_path, capsys):
    file = tmp_path / "act.yaml"
    file.write_text("most: 8\nroom: 2GB")
    with pytest.raises(SystemExit):
        act("--config", file, "--help")
    help_text = capsys.readouterr().out
    assert "(default: 8)" in help_text
    assert "(default: 2GB)" in help_text


@pytest.mark.parametrize("block", ["options", "config"])
def test_a_record_of_a_command_serves_as_its_file(tmp_path, capsys, block):
    file = tmp_path / "record.json"
    options = {"store": "runs", "kind": "a", "most": 3, "room": 7, "bounds": None, "numbers": [4], "rate": 1e-05}
    file.write_text(json.dumps({"versions": {}, block: options, "scores": [1]}))
    assert act("--config", file) == 0
    found = shown(capsys)
    assert found["limits"] == {"most": 3, "room": 7}
    assert (found["numbers"], found["bounds"], found["rate"]) == ([4], None, 1e-5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("moist: 3", "field 'moist' is unknown; the fields are "),
        ("most: many", "most: expected int, found 'many'"),
        ("most: true", "most: expected int, found True"),
        ("numbers: 9-0", "numbers: '9-0': 9-0 runs backwards; write 0-9"),
        ("bounds: [1, 2, 3]", "bounds: expected a list of 2 int, found [1, 2, 3]"),
        ("pairs: [x]", "pairs: expected a map, found ['x']"),
        ("kind: c", "kind: expected a, b, found 'c'"),
        ("most: 1\nMOST: 2", "field 'MOST' is unknown"),
        ("log-level: info\nlog_level: info", "log_level: is given twice"),
        ("config: x.yaml", "config: a file of options cannot name another"),
        ("[1, 2]", "expected a map of options, found list"),
        ("", "expected a map of options, found NoneType"),
        ("a: [", "expected YAML or JSON (while parsing"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, capsys, content, said):
    file = tmp_path / "act.yaml"
    file.write_text(content)
    assert act("--config", file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vlascope-base: {file}: {said}")


def test_a_file_that_is_not_there_or_no_text_is_one_line(tmp_path, capsys):
    assert act("--config", tmp_path / "none.yaml") == 2
    assert capsys.readouterr().err == f"vlascope-base: {tmp_path / 'none.yaml'}: No such file or directory\n"
    assert act(f"--config={tmp_path}") == 2
    assert capsys.readouterr().err == f"vlascope-base: {tmp_path}: Is a directory\n"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert act("--config", tmp_path / "b.yaml") == 2
    assert "expected YAML or JSON (" in capsys.readouterr().err


def test_yaml_is_imported_for_a_file_alone():
    program = "import sys, vlascope_base.options, vlascope_base.command; assert 'yaml' not in sys.modules, 'yaml'"
    subprocess.run([sys.executable, "-c", program], check=True)
