"""How fast a server answers is measured, and the first answer, which may wait for a compiler, is not counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from vlascope_sim.commands import policy_check


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
