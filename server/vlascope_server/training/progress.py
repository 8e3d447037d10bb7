"""A run's progress for people: bars on a terminal, lines elsewhere, on stderr. Knows nothing of how steps are taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress(contextlib.AbstractContextManager):
    """Two bars, one after the other: images that are prepared, then steps."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(
            TextColumn("{task.description}"), *columns, TextColumn("{task.fields[figures]}"), console=self._console
        )
        self._task = None

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def images(self, total: int) -> Iterator[Callable[[int], None]]:
        """Shows episodes whose images are prepared; yields what is told how many are."""
        task = self._bar.add_task("resizing images", total=total, figures="episodes")
        yield lambda done: self._bar.update(task, completed=done)
        self._bar.remove_task(task)

    def begin(self, step: int, steps: int | None) -> None:
        """Shows steps from now on."""
        self._task = self._bar.add_task("training", total=steps, completed=step, figures="compiling")

    def update(self, step: int, steps: int | None, values: Mapping[str, float]) -> None:
        """A step was taken."""
        if self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, figures=_loss(values, ""))

    def line(self, row: Mapping[str, Any], steps: int | None) -> None:
        """A line of metrics; on a terminal only those of held-out episodes, for the bar shows the others."""
        if "validation_loss" in row:
            text = f"held-out {_loss(row, 'validation_')}"
        elif self._console.is_terminal:
            return
        else:
            text = (
                f"{_loss(row, '')}, gradient {row['grad_norm']:.3g}, rate {row['learning_rate']:.2e},"
                f" {row['samples_per_second']:.1f} samples/s"
            )
        self._console.print(f"step {row['step']}/{steps or '?'}: {text}", highlight=False, soft_wrap=True)


def _loss(row: Mapping[str, Any], prefix: str) -> str:
    text = f"loss {row[prefix + 'loss']:.4f}"
    if prefix + "located" in row:
        flow, where = row[prefix + "flow_loss"], row[prefix + "grounding_loss"]
        found = f"{row[prefix + 'located']:.0%} located"
        if prefix + "place_located" in row:
            found += f", {row[prefix + 'place_located']:.0%} of places"
        text += f" (actions {flow:.4f}, grounding {where:.3f}, {found})"
    return text
