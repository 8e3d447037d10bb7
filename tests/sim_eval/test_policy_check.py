"""Servers that do not answer are left out and named. How fast one answers is measured, but for the first answer, which may wait
for a compiler.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import sys

import numpy as np
import pytest
from vlascope_client import PolicyConnectionError
from vlascope_sim.commands import first_contact, policy_check
from vlascope_sim.commands.first_contact import answering_servers
from vlascope_sim.errors import RolloutError

from tests.sim_eval.campaigns import campaign


class Served:
    """A policy that takes the given seconds for each inference, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seconds: float):
        self.now, self.asked = 0.0, 0
        self.takes = itertools.chain(seconds, itertools.repeat(seconds[-1]))
        monkeypatch.setattr(policy_check.time, "perf_counter", lambda: self.now)

    def infer(self, observation, seed):
        self.now, self.asked = self.now + next(self.takes), self.asked + 1
        self.actions = np.zeros((10, 7), np.float32)
        return self


@pytest.mark.parametrize(
    ("seconds", "asked"),
    [((60.0, 0.5), 6), ((0.1, 0.2, 0.3), 6), ((1.0, 2.0, 2.0, 2.0), 4), ((0.1, 30.0), 2)],
)
def test_a_few_inferences_are_measured_in_a_few_seconds(monkeypatch, seconds, asked):
    served = Served(monkeypatch, *seconds)
    latencies, actions = policy_check._infer_same(served, 8)
    assert (len(latencies), len(actions), served.asked) == (asked, asked, asked)
    expected = [
        1e3 * second for second in itertools.islice(itertools.chain(seconds, itertools.repeat(seconds[-1])), asked)
    ]
    assert latencies == pytest.approx(expected)


DEAD, ALIVE = "ws://127.0.0.1:9", "ws://127.0.0.1:8"


@pytest.fixture
def one_is_alive(monkeypatch):
    def tried(server, api_key, seconds):
        return None if server == ALIVE else f"{server}: nobody there"

    monkeypatch.setattr(first_contact, "_try", tried)


@pytest.mark.parametrize("servers", [(DEAD, ALIVE), (ALIVE, DEAD), (DEAD, ALIVE, "ws://127.0.0.1:7")])
def test_a_campaign_goes_on_with_the_servers_that_answer(one_is_alive, caplog, servers):
    assert answering_servers(campaign(servers=servers, connect_seconds=0.3), None) == (ALIVE,)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.match(rf"no answer within 0.3 s \(\d+ tr(y|ies)\): {DEAD}: nobody there", warning)
    assert warning.endswith(f"; going on with {ALIVE}")


def test_where_all_answer_nothing_is_said_and_nobody_waits(one_is_alive, caplog):
    assert answering_servers(campaign(servers=(ALIVE,), connect_seconds=1e6), None) == (ALIVE,)
    assert caplog.records == []


def test_where_none_answers_it_ends_and_names_all():
    """Nobody listens at these ports."""
    with pytest.raises(PolicyConnectionError) as error:
        answering_servers(campaign(servers=("ws://127.0.0.1:1", "127.0.0.1:2"), connect_seconds=0.5), None)
    said = str(error.value)
    assert re.match(r"no server answered within 0\.5 s \(\d+ tries\): ws://127\.0\.0\.1:1: ", said)
    assert "ws://127.0.0.1:2: " in said
    with pytest.raises(RolloutError, match="expected ws://host:port"):
        answering_servers(campaign(servers=("http://a",), connect_seconds=0.5), None)


def test_waiting_is_a_few_lines_in_a_file_and_one_on_a_terminal(one_is_alive, monkeypatch, caplog):
    waited = campaign(servers=(DEAD, ALIVE), connect_seconds=2.0)
    with caplog.at_level("INFO"):
        answering_servers(waited, None)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert 2 <= len(lines) <= 4
    assert re.fullmatch(rf"no answer after 2 tries, 0\.\d of 2 s: {DEAD}", lines[1])
    caplog.clear()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    long = "ws://a-host-with-a-name-that-is-longer-than-others.in.some.domain.example:8000"
    with caplog.at_level("INFO"):
        answering_servers(campaign(servers=(long, ALIVE), connect_seconds=2.0), None)
    assert [record for record in caplog.records if record.levelno == logging.INFO] == []
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "2 tries" in shown
    assert max(len(line) for line in re.split(r"[\r\n]", shown)) <= 80
    assert shown.count("\n") <= 1, "the line changes in its place"
