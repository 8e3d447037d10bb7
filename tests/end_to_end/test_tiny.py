"""`scripts/tiny.py`: every step of its recipes is a command that exists, with options that it takes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from vlascope_server.commands import main as server
from vlascope_sim.commands import main as simulation


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("tiny")


def test_what_is_to_be_demonstrated_can_be(tiny, tmp_path):
    for part in (*tiny.DEMONSTRATIONS, *tiny.FINE_DEMONSTRATIONS, *tiny.UNVARIED):
        assert simulation(["demonstrate", *part, "--output", str(tmp_path / "new"), "--dry-run"]) == 0
    assert not (tmp_path / "new").exists()


def test_how_it_is_trained_is_understood(tiny, tmp_path, capsys):
    """As far as the dataset, which is not there."""
    usual = ["--dataset", str(tmp_path / "none"), "--output", str(tmp_path / "run"), "--steps", "1", *tiny.USUAL]
    for recipe in (tiny.LOOKING, tiny.ACTING, tiny.FINISHING, tiny.SIBLING, (*tiny.SIBLING, "--lora", "8")):
        assert server(["train", *usual, *recipe]) == 2
        assert "no such folder" in capsys.readouterr().err.splitlines()[-1]


def test_siblings_that_are_presets_are_not_trained_again(tiny):
    assert tiny.missing_siblings() == []
