"""Recordings to capture, and the command that captures them."""

from __future__ import annotations

from pathlib import Path

import pytest
from vlascope_server.commands import main

from tests.server.capturing.saved import save
from tests.server.training.conftest import dataset  # noqa: F401 a fixture

SPEC = '{"layers": [0, 7], "components": ["hidden_states", "x_t"], "spans": ["text", "action"]}'


@pytest.fixture
def seen(tmp_path) -> Path:
    """The folder of a campaign of four episodes, of each of which three frames were captured."""
    for episode in range(4):
        save(tmp_path / "seen", episode)
    return tmp_path / "seen"


@pytest.fixture
def capture(tmp_path, capsys):
    """Runs the command with a store in the test's folder; its exit code, stdout and the lines of its stderr but for the log."""

    def run(*options: object, store: Path = tmp_path / "runs") -> tuple[int, str, list[str]]:
        capsys.readouterr()
        words = [str(option) for option in options]
        if "--resume" not in words:
            usual = {"--store": str(store), "--min-free": "1MB", "--checkpoint": "tiny"}
            words += [word for option in usual if option not in words for word in (option, usual[option])]
        code = main(["capture", *words])
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if not line.startswith("INFO")]

    return run


@pytest.fixture
def refused(capture, tmp_path):
    """Runs the command, which refuses in one line and stores nothing; the line."""

    def run(*options: object, **more: Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        code, out, lines = capture(*options, **more)
        assert code == 2, out
        (line,) = lines
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run
