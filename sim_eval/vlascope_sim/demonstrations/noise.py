"""Noise on an expert's actions: what is done differs from what is written down. Pure functions of a seed.

The labels are always the expert's: a policy trained on them sees states beside the straight way, and the actions that lead
back from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class NoiseOptions:
    """How noisy demonstrations are.

    Attributes:
        sigmas: standard deviations of a translation's noise, in units of the command; each episode draws one.
        bursts: most pushes in an episode; each episode draws how many.
        burst_steps: shortest and longest push, in steps.
        burst_starts_before: the step before which pushes begin.
    """

    sigmas: tuple[float, ...] = (0.0, 0.1, 0.25)
    bursts: int = 3
    burst_steps: tuple[int, int] = (3, 8)
    burst_starts_before: int = 85


NO_NOISE = NoiseOptions(sigmas=(0.0,), bursts=0)

_PUSH = (0.4, 1.0)
_UPWARDS = 0.6
"""How often a push may not go down."""


@dataclasses.dataclass(frozen=True)
class Burst:
    """A push: in place of the expert's translation, for some steps.

    Attributes:
        start: first step.
        length: in steps.
        push: the command, [3].
    """

    start: int
    length: int
    push: tuple[float, float, float]


class Noise:
    """One episode's noise.

    Attributes:
        sigma: of the episode.
        bursts: of the episode, by their start.
    """

    def __init__(self, options: NoiseOptions, seed: int):
        self._rng = np.random.default_rng(seed)
        self.sigma = float(self._rng.choice(options.sigmas))
        count = int(self._rng.integers(0, options.bursts + 1))
        starts = sorted(int(start) for start in self._rng.integers(0, options.burst_starts_before, count))
        self.bursts = tuple(Burst(start, *self._push(options)) for start in starts)

    def executed(self, label: np.ndarray, step: int) -> tuple[np.ndarray, bool]:
        """What is done in a step. Call it once a step, in order.

        Args:
            label: the expert's action, [7].
            step: from 0.

        Returns:
            The action, [7] within [-1, 1], gripper and rotation as in the label; and whether it follows the label, up to the
            episode's `sigma`: False during a push.
        """
        action = np.array(label, np.float64)
        action[:3] += self.sigma * self._rng.standard_normal(3)
        pushes = [burst for burst in self.bursts if burst.start <= step < burst.start + burst.length]
        if pushes:
            action[:3] = pushes[-1].push
        return np.clip(action, -1, 1), not pushes

    def _push(self, options: NoiseOptions) -> tuple[int, tuple[float, float, float]]:
        shortest, longest = options.burst_steps
        length = int(self._rng.integers(shortest, longest + 1))
        direction = self._rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        if self._rng.uniform() < _UPWARDS:
            direction[2] = abs(direction[2])
        x, y, z = (float(part) for part in direction * self._rng.uniform(*_PUSH))
        return length, (x, y, z)


def chunk_mask(action_mask: Sequence[bool] | np.ndarray, frame: int, horizon: int) -> np.ndarray:
    """Which labels of an action chunk a policy can be held to.

    The label at `frame` always counts: it answers what is seen there. A later one counts as long as every action before it in
    the chunk was followed; after a push it answers something that nobody could foresee at `frame`.

    Args:
        action_mask: of the episode, [n]: True where the label was followed.
        frame: first of the chunk.
        horizon: length of the chunk.

    Returns:
        bool [horizon]. Beyond the episode's end the last state is taken as followed, as labels repeat there.
    """
    followed = np.asarray(action_mask, bool)[frame : frame + horizon - 1]
    padded = np.concatenate([[True], followed, np.ones(horizon - 1 - len(followed), bool)])
    return np.logical_and.accumulate(padded)
