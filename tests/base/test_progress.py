"""Bars are on stderr, are gone when they are done, and pass on what they count."""

from __future__ import annotations

import pytest
from vlascope_base.progress import shown, tracked


def test_tracked_yields_every_item_and_writes_nothing_to_stdout(capsys):
    assert list(tracked(["a", "b", "c"], "reading")) == ["a", "b", "c"]
    assert list(tracked([], "reading")) == []
    assert capsys.readouterr().out == ""


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
