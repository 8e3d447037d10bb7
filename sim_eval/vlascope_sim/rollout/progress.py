"""A campaign's progress for people: episodes, success with its interval, steps a second, policy latency, time left."""

from __future__ import annotations

import contextlib
import logging
import time

import numpy as np
from rich.console import Console
from vlascope_base.progress import progress_bars
from vlascope_base.text import counted

from vlascope_sim.rollout.results import EpisodeResult
from vlascope_sim.rollout.workers import Beat, Job
from vlascope_sim.statistics import wilson_interval

_LATENCIES = 500
_LEAST_SECONDS = 1.0
"""After which a speed is worth showing."""
_CLIENT_LOG = logging.getLogger("vlascope_client.conversation")
_NO_SERVER = ("no server answered", "still no server")
"""How its messages begin that say so."""


class CampaignProgress(contextlib.AbstractContextManager):
    """A progress bar on stderr, and one line an episode where that is no terminal.

    Args:
        total: episodes.
        done: rows of those that have one.
        console: to print on; stderr unless given.
        conditions: what differs from plain episodes (`Campaign.conditions`); it stays in view.
    """

    def __init__(self, total: int, done: list[EpisodeResult], console: Console | None = None, *, conditions: str = ""):
        self._console = console or Console(stderr=True)
        self._conditions = conditions
        self._bar = progress_bars(self._console, field="metrics")
        self._task = self._bar.add_task("episodes", total=total, completed=len(done), metrics="")
        self._rows = [row for row in done if row.status == "done"]
        self._errors = len(done) - len(self._rows)
        self._latencies: list[float] = []
        self._steps: dict[Job, int] = {}
        self._taken = 0
        self._first_steps: tuple[float, int] | None = None
        self._waiting_since: float | None = None

    def __enter__(self) -> CampaignProgress:
        if self._conditions and not self._console.is_terminal:
            self.note(f"episodes: {self._conditions}")
        if self._console.is_terminal:
            _CLIENT_LOG.addFilter(self._shown_instead)
        self._bar.start()
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        _CLIENT_LOG.removeFilter(self._shown_instead)
        self._bar.stop()

    def beat(self, beat: Beat) -> None:
        """A worker lives."""
        self._step(beat.steps - self._steps.get(beat.job, 0))
        self._steps[beat.job] = beat.steps
        self._show()

    def _step(self, steps: int) -> None:
        if steps <= 0:
            return
        self._taken += steps
        self._waiting_since = None
        if self._first_steps is None:
            self._first_steps = time.monotonic(), steps

    def _shown_instead(self, record: logging.LogRecord) -> bool:
        """Keeps from the log that a client waits for its server, which each worker would say again and again."""
        if not record.getMessage().startswith(_NO_SERVER):
            return True
        self._waiting_since = self._waiting_since or time.monotonic()
        self._show()
        return False

    def finished(self, job: Job, row: EpisodeResult) -> None:
        """An episode has its row, `done` or `error`."""
        self._step(row.steps - self._steps.pop(job, row.steps))
        self._latencies = (self._latencies + list(row.latency_ms))[-_LATENCIES:]
        if row.status == "done":
            self._rows.append(row)
        else:
            self._errors += 1
        self._bar.advance(self._task)
        self._show()
        if not self._console.is_terminal:
            outcome = row.reason if row.status == "error" else "success" if row.success else "failure"
            self._console.print(
                f"{row.name}: {outcome}, {counted(row.steps, 'step')}; {self._metrics()}",
                highlight=False,
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Something that people should know: on a terminal in whole words, in a file one line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)

    def _show(self) -> None:
        below = [self._metrics(), self._conditions] if self._conditions else [self._metrics()]
        self._bar.update(self._task, metrics="\n".join(below))

    def _metrics(self) -> str:
        wins, total = sum(bool(row.success) for row in self._rows), len(self._rows)
        low, high = wilson_interval(wins, total)
        parts = [f"{wins}/{total} succeeded ({low:.0%} to {high:.0%})"] if total else []
        if self._errors:
            parts.append(counted(self._errors, "error"))
        now = time.monotonic()
        since, before = self._first_steps or (now, 0)
        if self._first_steps is None:
            parts.append("workers start and build their scenes")
        elif now - since >= _LEAST_SECONDS:
            parts.append(f"{(self._taken - before) / (now - since):.0f} steps/s")
        if self._latencies:
            parts.append(f"policy {np.median(self._latencies):.0f} ms")
        if self._waiting_since is not None:
            parts.append(f"no server answers, {now - self._waiting_since:.0f} s so far; trying again")
        return ", ".join(parts)
