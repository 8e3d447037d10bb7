import dataclasses
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import tyro
from vlascope_base import OptionError, VlascopeError
from vlascope_base.command import StderrHandler, run_command, say_configuration
from vlascope_base.options import Bytes, CommandOptions, Numbers, NumbersOrAll, read_fields, record_of, word_of


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
    assert capsys.readouterr().err == said


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


def test_print_config_prints_all_options_and_runs_nothing(capsys):
    assert run("--what", "fault", "--numbers", "0-2", "--print-config") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == {
        "act": {
            "log_level": "info",
            "what": "fault",
            "numbers": [0, 1, 2],
            "room": 10**9,
            "limit": None,
            "api_key": None,
        }
    }


def test_secrets_are_not_shown(capsys):
    assert run("--api-key", "hunter2", "--print-config") == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert json.loads(shown)["act"]["api_key"] == "(given)"
    assert run("--api-key", "hunter2") == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err


def test_results_keep_options_without_print_config():
    assert list(record_of(Act(print_config=True))) == ["log_level", "what", "numbers", "room", "limit", "api_key"]


def test_the_log_goes_to_what_stderr_is_at_that_moment(capsys, monkeypatch):
    handler = StderrHandler()
    aside = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", aside)
        handler.handle(logging.LogRecord("a", logging.WARNING, "f", 1, "to the %s", ("side",), None))
    handler.handle(logging.LogRecord("a", logging.INFO, "f", 1, "back", (), None))
    assert aside.getvalue() == "WARNING to the side\n"
    assert capsys.readouterr().err == "INFO back\n"


def test_where_the_configuration_lies_is_one_line(caplog):
    with caplog.at_level("INFO"):
        say_configuration(Path("a/train.json"))
    assert caplog.messages == ["configuration in a/train.json"]


@pytest.mark.parametrize("args", [["--version"], ["act", "--version"], ["act", "--what", "fault", "--version"]])
def test_every_command_tells_its_version(capsys, args):
    assert run_command("vlascope-base", "A command.", {"act": Act, "other": Act}, args) == 0
    assert capsys.readouterr().out.startswith("vlascope-base 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wordy(CommandOptions):
    """Does one thing and another, and says in a sentence that is longer than eighty characters which those are.

    What stands here, `beside the first paragraph`, is of interest to those alone who ask for the help of this very subcommand,
    9 of 10 times.
    """

    def run(self):
        pass


def help_of(capsys, *args):
    with pytest.raises(SystemExit):
        run_command("vlascope-base", "A command. " * 10, {"wordy": Wordy, "other": Act}, [*args, "--help"])
    return capsys.readouterr().out


def test_help_names_the_version_and_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    above, one = help_of(capsys), help_of(capsys, "wordy")
    for shown in (above, one):
        assert "--version" in shown
        assert max(map(len, shown.splitlines())) <= 80
    assert "beside the first paragraph" not in above
    assert "that is longer than eighty characters which those are." in " ".join(one.split())
    assert "9 of 10 times" in one


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_no_word_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    record = logging.LogRecord(
        "a", logging.WARNING, "f", 1, "several words, and a-very-long-one-of-more-than-30", (), None
    )
    StderrHandler().handle(record)
    lines = screen.getvalue().splitlines()
    assert lines == ["WARNING several words, and", "a-very-long-one-of-more-than-30"]
    monkeypatch.setattr(sys, "stderr", piped := io.StringIO())
    StderrHandler().handle(record)
    assert len(piped.getvalue().splitlines()) == 1


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configured(CommandOptions):
    """Takes its defaults from a file."""

    config: Path | None = None
    """JSON file with any of the options."""
    numbers: NumbersOrAll = None
    """Which."""
    rate: float = 0.5
    """How fast."""
    switch: bool = False
    """Whether."""
    mode: Literal["a", "b"] = "a"
    """How."""
    name: str
    """Must be given, here or in the file."""

    @classmethod
    def defaults(cls, args):
        file = word_of("--config", args)
        if file is None:
            return None
        try:
            found = json.loads(Path(file).read_text())
        except OSError as error:
            raise VlascopeError(f"{file}: {error.strerror}") from error
        return cls(**{"name": tyro.MISSING, **read_fields(cls, found)})

    def run(self):
        print(self.numbers, self.rate, self.switch, self.mode, self.name)


def configured(*args):
    subcommands = {"go": Configured, "act": Act}
    return run_command("vlascope-base", "A command.", subcommands, ["go", *map(str, args)])


def test_a_files_values_are_the_defaults_and_the_command_line_wins(tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_text('{"numbers": [4, 5], "rate": 2, "switch": true, "mode": "b", "name": "n"}')
    assert configured("--config", file) == 0
    assert capsys.readouterr().out == "(4, 5) 2.0 True b n\n"
    assert configured(f"--config={file}", "--numbers", "all", "--no-switch", "--rate", "0.5", "--mode", "a") == 0
    assert capsys.readouterr().out == "None 0.5 False a n\n"
    assert configured("--name", "x") == 0
    assert capsys.readouterr().out == "None 0.5 False a x\n"


def test_what_neither_the_file_nor_the_command_line_gives_is_still_required(tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_text('{"rate": 2}')
    assert configured("--config", file, "--name", "x") == 0
    assert capsys.readouterr().out == "None 2.0 False a x\n"
    with pytest.raises(SystemExit) as end:
        configured("--config", file)
    assert end.value.code == 2
    written = capsys.readouterr()
    assert "--name" in written.out + written.err


def test_help_shows_the_files_values_and_a_file_that_is_wrong_is_one_line(tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_text('{"numbers": [4, 5, 6], "name": "n"}')
    with pytest.raises(SystemExit):
        configured("--config", file, "--help")
    assert "(default: 4-6)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        configured("--help")
    assert "(default: all)" in capsys.readouterr().out
    file.write_text('{"rat": 1}')
    assert configured("--config", file) == 2
    assert capsys.readouterr().err.startswith("vlascope-base: field 'rat' is unknown; the fields are ")
    assert configured("--config", tmp_path / "none") == 2
    assert capsys.readouterr().err == f"vlascope-base: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--config", "a"], "a"),
        (["--config=a"], "a"),
        (["--config="], ""),
        (["--x", "1", "--config", "a", "--config=b"], "b"),
        (["--config"], None),
        (["--configs", "a"], None),
        (["config", "a"], None),
        ([], None),
    ],
)
def test_the_word_of_an_option(args, word):
    assert word_of("--config", args) == word
    assert word_of("--retry-errors", ["--retry_errors", "x"]) == "x"


@dataclasses.dataclass
class Fields:
    words: tuple[str, ...] = ()
    texts: dict[int, str] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    rate: float = 0
    count: int = 0
    numbers: Numbers = ()


def test_fields_of_a_file_get_their_types():
    found = {"words": ["a"], "texts": {1: "x"}, "folder": "a/b", "rate": 1, "numbers": [1, 2]}
    assert read_fields(Fields, found) == {
        "words": ("a",), "texts": {1: "x"}, "folder": Path("a/b"), "rate": 1.0, "numbers": (1, 2),
    }  # fmt: skip
    assert read_fields(Fields, {"folder": None}) == {"folder": None}
    assert read_fields(Fields, {"texts": {"1": "x"}}) == {"texts": {1: "x"}}, "JSON has no other keys than text"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"word": []}, "field 'word' is unknown; the fields are words, texts, folder, rate, count, numbers"),
        ({"words": ["a", 1]}, "words[1]: expected str, found 1"),
        ({"texts": {"x": "x"}}, "texts: expected int, found 'x'"),
        ({"texts": {1: 2}}, "texts.1: expected str, found 2"),
        ({"count": True}, "count: expected int, found True"),
        ({"rate": "1"}, "rate: expected float, found '1'"),
    ],
)
def test_fields_of_the_wrong_type_are_named(found, said):
    with pytest.raises(OptionError) as error:
        read_fields(Fields, found)
    assert str(error.value) == said
