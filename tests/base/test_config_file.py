"""Options whose defaults come from a file of any command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import OmitArgPrefixes, Positional
from vlascope_base import OptionError
from vlascope_base.command import run_command
from vlascope_base.maps import read_map
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
    api_key: str | None = None
    """Secret."""
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of words."""
    switch: bool = False
    """Whether."""

    def __post_init__(self):
        """A class may refuse what is not complete."""
        assert isinstance(self.store, Path)
        if self.bounds is not None and self.bounds[0] > self.bounds[1]:
            raise OptionError(f"bounds: expected the lower one first, found {self.bounds}")

    def run(self):
        if self.rate < 0:
            raise OptionError(f"--rate: expected at least 0, found {self.rate:g}")
        if self.limits.most < 0:
            raise OptionError(f"most {self.limits.most}: expected at least 0")
        shown = dataclasses.asdict(self)
        hidden = (*UNRECORDED, "log_level", "api_key")
        print(json.dumps({name: shown[name] for name in shown if name not in hidden}, default=str))


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
        ("[1, 2]", "expected a map such as `name: value`, found a list"),
        ("", "expected a map such as `name: value`, found nothing"),
        ("# nothing\n", "expected a map such as `name: value`, found nothing"),
        ("rate: 1\nrate: 2", "rate: is given twice"),
        ("pairs: &a {x: *a}", "a list or a map holds itself: expected values that come to an end"),
        ("bounds: &a [1, *a]", "a list or a map holds itself: expected values that come to an end"),
        ("pairs: {x: a, x: b}", "x: is given twice"),
        ("most: 1\nlimits: {most: 2}", "most: is given twice"),
        ("limits: {moist: 2}", "field 'moist' is unknown"),
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


def test_what_is_printed_serves_as_a_file(tmp_path, capsys):
    given = (
        "runs",
        "--kind",
        "b",
        "--most",
        "7",
        "--numbers",
        "0-2",
        "--pairs",
        "x",
        "y",
        "--rate",
        "1e-4",
        "--switch",
    )
    assert act(*given) == 0
    plain = shown(capsys)
    assert act(*given, "--print-config") == 0
    file = tmp_path / "printed.json"
    file.write_text(capsys.readouterr().out)
    assert act("--config", file) == 0
    assert shown(capsys) == plain


def test_a_secret_that_was_not_printed_is_asked_for(tmp_path, capsys):
    assert act("runs", "--kind", "b", "--api-key", "hunter2", "--print-config") == 0
    file = tmp_path / "printed.json"
    file.write_text(capsys.readouterr().out)
    assert "hunter2" not in file.read_text()
    assert act("--config", file) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vlascope-base: {file}: api_key: '(given)' stands for a secret")
    assert "give --api-key" in said
    assert act("--config", file, "--api-key", "hunter2") == 0


def test_a_value_out_of_range_is_blamed_on_the_file_that_gave_it(tmp_path, capsys):
    file = tmp_path / "act.yaml"
    file.write_text("store: runs\nkind: a\nrate: -1\nmost: -3")
    assert act("--config", file) == 2
    assert capsys.readouterr().err == f"vlascope-base: {file}: --rate: expected at least 0, found -1\n"
    assert act("--config", file, "--rate", "-2") == 2
    assert capsys.readouterr().err == "vlascope-base: --rate: expected at least 0, found -2\n"
    assert act("--config", file, "--rate", "2") == 2
    assert capsys.readouterr().err == f"vlascope-base: {file}: most -3: expected at least 0\n"


def test_so_is_one_that_the_options_refuse_when_they_are_made(tmp_path, capsys):
    file = tmp_path / "act.yaml"
    file.write_text("store: runs\nkind: a\nbounds: [3, 1]")
    assert act("--config", file) == 2
    said = capsys.readouterr().err
    assert said == f"vlascope-base: {file}: bounds: expected the lower one first, found (3, 1)\n"
    assert act("--config", file, "--bounds", "4", "2") == 2
    assert capsys.readouterr().err == "vlascope-base: bounds: expected the lower one first, found (4, 2)\n"


def test_a_file_whose_aliases_multiply_is_read_at_once(tmp_path):
    """Ten thousand million places in two kilobytes."""
    file = tmp_path / "many.yaml"
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join(["a0: &a0 [x]", *lists]))
    begun = time.monotonic()
    assert len(read_map(file)) == 10
    assert time.monotonic() - begun < 5


def test_no_file_and_no_word_for_one(tmp_path, capsys):
    assert act("--config=") == 2
    assert capsys.readouterr().err == "vlascope-base: --config: expected a file, found nothing\n"
    assert act("--config", tmp_path / "none.yaml") == 2
    assert capsys.readouterr().err == f"vlascope-base: {tmp_path}/none.yaml: No such file or directory\n"
    (tmp_path / "twice.json").write_text('{"rate": 1, "rate": 2}')
    assert act("--config", tmp_path / "twice.json") == 2
    assert capsys.readouterr().err == f"vlascope-base: {tmp_path}/twice.json: rate: is given twice\n"
