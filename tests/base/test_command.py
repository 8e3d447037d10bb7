import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from vlascope_base import VlascopeError
from vlascope_base.command import run_command
from vlascope_base.options import Bytes, CommandOptions, Numbers


class ForeignError(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Act(CommandOptions):
    """Does what it is told."""

    what: str = "nothing"
    """What to do."""
    numbers: Numbers = (0, 1, 2)
    """Which."""
    room: Bytes = 10**9
    """How much."""
    limit: Bytes | None = None
    """How much at most."""
    api_key: str | None = None
    """Secret."""

    def run(self):
        acts = {
            "fail": VlascopeError("two\nlines \x1b[31m"),
            "foreign": ForeignError("from elsewhere"),
            "full": OSError(28, "No space left on device", "/a/file"),
            "stop": KeyboardInterrupt(),
            "fault": RuntimeError("a fault"),
        }
        if self.what in acts:
            raise acts[self.what]
        print(self.numbers, self.room, self.limit)
        return 1 if self.what == "one" else None


def run(*args):
    return run_command(
        "vlascope-base", "A command.", {"act": Act, "other": Act}, ["act", *args], errors=(ForeignError,)
    )


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("nothing", 0, ""),
        ("one", 1, ""),
        ("fail", 2, "vlascope-base: two lines \\x1b[31m\n"),
        ("foreign", 2, "vlascope-base: from elsewhere\n"),
        ("full", 2, "vlascope-base: /a/file: No space left on device\n"),
        ("stop", 130, "vlascope-base: stopped\n"),
    ],
)
def test_a_command_ends_with_one_line_and_a_code(capsys, what, code, said):
    assert run("--what", what) == code
    assert capsys.readouterr().err.split("\n", 1)[1] == said


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError):
        run("--what", "fault")


def test_numbers_and_bytes_are_read_from_the_command_line(capsys):
    run("--numbers", "0-2,7", "--room", "1.5GB", "--limit", "1GiB")
    assert capsys.readouterr().out == f"(0, 1, 2, 7) 1500000000 {1 << 30}\n"
    run()
    assert capsys.readouterr().out == "(0, 1, 2) 1000000000 None\n"


@pytest.mark.parametrize(
    ("option", "text", "said"), [("--numbers", "9-0", "write 0-9"), ("--room", "many", "expected bytes such as")]
)
def test_what_cannot_be_read_ends_with_two(capsys, option, text, said):
    with pytest.raises(SystemExit) as end:
        run(option, text)
    assert end.value.code == 2
    written = capsys.readouterr()
    assert said in " ".join((written.out + written.err).replace("│", " ").split())


def test_help_shows_defaults_as_they_are_written(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    shown = capsys.readouterr().out
    assert "0-2" in shown
    assert "1GB" in shown


def test_secrets_are_not_shown(capsys):
    run("--api-key", "hunter2")
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert json.loads(shown)["act"]["api_key"] == "(given)"


def test_every_command_tells_its_version(capsys):
    assert run_command("vlascope-base", "A command.", {"act": Act, "other": Act}, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("vlascope-base 0.")


def test_a_reader_that_has_seen_enough_is_no_error():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_command as t\n"
        "t.Act.run = lambda self: [print('a' * 1000) for _ in range(10000)] and None\n"
        "sys.exit(t.run())"
    )
    shown = subprocess.run(
        ["/bin/bash", "-c", f'"{sys.executable}" -c "$1" | head -1; echo "${{PIPESTATUS[0]}}"', "-", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split()[-1] == "0"
    assert "Traceback" not in shown.stderr
