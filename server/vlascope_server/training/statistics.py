"""Normalisation statistics of a dataset, and which action dimensions carry anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vlascope_server.robots import Conventions, NormStats, NormStatsError, RobotIO, RobotPipeline, RunningStats
from vlascope_server.robots.arithmetic import quantiles, to_delta
from vlascope_server.training.frames import Frames
from vlascope_server.training.options import TrainingError

_ROWS = 4096
"""Chunks looked at together."""
_NARROW = 0.1
"""Of a standard deviation (a normal distribution's quantiles are 4.65 apart): closer quantiles say that a dimension hardly
ever moves, and dividing by them would make its few movements enormous."""
_EXTREME = 1e3
"""A normalised value beyond this cannot be what the statistics were made for."""
_STILL = 1e-6


def measure(
    frames: Frames, robot: RobotIO, conventions: Conventions, horizon: int, pad: Literal["mask", "repeat"]
) -> tuple[dict[str, NormStats], int]:
    """Statistics of states, and of the actions of every chunk that training can draw; and how many states they are of.

    A dimension that never moves gets deviation 0 exactly, so that it comes back as the constant that it is.

    Raises:
        TrainingError: there is too little, or every label is masked.
    """
    state, actions = _Measured(), _Measured()
    state.update(frames.state)
    mask = robot.spec.delta_mask if conventions.delta_actions else ()
    for chunks, states, counts in _chunks(frames, horizon, pad):
        actions.update(to_delta(robot.actions_to_model(chunks), states, mask)[counts])
    try:
        return {"state": state.result(), "actions": actions.result()}, state.running.count
    except NormStatsError as error:
        raise TrainingError(f"norm stats: {error}; is every label masked?") from None


def carrying(
    frames: Frames, pipeline: RobotPipeline, horizon: int, pad: Literal["mask", "repeat"]
) -> Bool[np.ndarray, " a"]:
    """Which of the model's action dimensions ever move in this dataset: neither padding nor constant.

    Raises:
        TrainingError: values lie far outside of what the statistics say; names the dimension.
    """
    low, high = np.full(pipeline.action_dim, np.inf), np.full(pipeline.action_dim, -np.inf)
    for chunks, states, counts in _chunks(frames, horizon, pad):
        if counts.any():
            values = pipeline.training_actions(chunks, states)[counts]
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    extreme = np.maximum(np.abs(low), np.abs(high))
    if (extreme > _EXTREME).any():
        dimension = int(np.argmax(extreme))
        raise TrainingError(
            f"actions: number {dimension} is up to {extreme[dimension]:.3g} after normalisation: the statistics are of data"
            " in which it hardly moved; measure them on this dataset with --norm-stats dataset"
        )
    return high - low > _STILL


def _chunks(
    frames: Frames, horizon: int, pad: Literal["mask", "repeat"]
) -> Iterator[tuple[Float[np.ndarray, "n A r"], Float[np.ndarray, "n s"], Bool[np.ndarray, "n A"]]]:
    for start in range(0, len(frames), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(frames)))
        chunks, counts = frames.chunks(rows, horizon, pad)
        yield chunks, frames.state[rows], counts


class _Measured:
    """Running statistics, and the range."""

    def __init__(self):
        self.running = RunningStats()
        self._low: np.ndarray | float = np.inf
        self._high: np.ndarray | float = -np.inf

    def update(self, values: Float[np.ndarray, "n d"]) -> None:
        if len(values):
            self.running.update(values)
            self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))

    def result(self) -> NormStats:
        stats, low, high = self.running.result(), np.asarray(self._low), np.asarray(self._high)
        q01, q99 = quantiles(stats)
        constant = low == high
        std = np.where(constant, 0.0, stats.std)
        narrow = constant | (q99 - q01 < _NARROW * std)
        return dataclasses.replace(
            stats,
            mean=np.where(constant, low, stats.mean),
            std=std,
            q01=np.where(narrow, low, q01),
            q99=np.where(narrow, high, q99),
        )
