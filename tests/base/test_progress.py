"""Bars are on stderr, are gone when they are done, and pass on what they count."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from rich.console import Console
from vlascope_base.command import StderrHandler
from vlascope_base.progress import progress_bars, shown, tracked


def test_tracked_yields_every_item_and_writes_nothing_to_stdout(capsys):
    assert list(tracked(["a", "b", "c"], "reading")) == ["a", "b", "c"]
    assert list(tracked([], "reading")) == []
    assert capsys.readouterr() == ("", ""), "stderr is no terminal: not even an empty line is written"


def test_an_error_in_the_loop_passes_through():
    def loop():
        for item in tracked([1, 2], "reading"):
            if item == 2:
                raise ValueError("second")

    with pytest.raises(ValueError, match="second"):
        loop()


def test_what_is_printed_meanwhile_stays_where_it_belongs(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    for item in tracked(["a", "b"], "reading"):
        print(item)
    assert capsys.readouterr().out == "a\nb\n"


def test_things_of_unknown_number_are_shown_too(capsys):
    with shown() as report:
        report("one", 0, 0)
        report("one", 3, 0)
        report("two", 1, 2)
    assert capsys.readouterr().out == ""


def on_a_terminal(width, description, text):
    """What stands on a terminal of that width after a bar for half of 10,000 things, without colours."""
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=24, force_terminal=True, color_system=None)
    with progress_bars(console, field="metrics") as bars:
        bars.add_task(description, total=10_000, completed=5_000, metrics=text)
    return re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_times_are_whole_beside_long_texts(width):
    description = "a long description of what is being done, with details"
    text = "123/456 succeeded (20% to 34%), 3 errors, 1234 steps/s, policy 1234 ms, objects shuffled and moved"
    lines = on_a_terminal(width, description, text)
    bars = [line for line in lines if "5000/10000" in line]
    assert bars
    for line in bars:
        assert re.search(r"━.* 5000/10000 0:00:0\d -:--:--$", line.rstrip()), line
    assert all(len(line) <= width for line in lines)
    below = " ".join(" ".join(lines).split())
    assert text in below, "the text is shown whole, and wraps between words"


def test_a_log_line_goes_above_the_bars(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = StderrHandler()  # made before there are bars, as a command makes it
    console = Console(stderr=True, width=80, force_terminal=True, color_system=None)
    with progress_bars(console, field="metrics") as bars:
        bars.add_task("working", total=2, completed=1, metrics="half")
        bars.refresh()
        handler.handle(logging.LogRecord("a", logging.WARNING, "f", 1, "something [happened]", (), None))
    shown = screen.getvalue()
    before, _, after = shown.partition("WARNING something [happened]\n")
    assert after, "the line is written as it is"
    # the cursor went up and the bars were erased before the line, and they are drawn again behind it
    assert re.search(r"\x1b\[2K[^\n]*$", before), before
    assert "working" in after
