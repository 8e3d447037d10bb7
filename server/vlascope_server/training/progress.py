"""A run's progress for people: bars on a terminal, lines elsewhere, on stderr; and the loss curve as a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from vlascope_base.files import replacing
from vlascope_base.progress import progress_bars

_SMOOTH = 0.05
"""Share of the run that a point of the smooth line averages over."""

Metrics = Mapping[str, float]
"""A line of `metrics.jsonl`: the name of a metric, or `step` -> its value."""


class TrainingProgress(contextlib.AbstractContextManager):
    """Two bars, one after the other: episodes whose images are prepared, then steps, with their loss below."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._bar = progress_bars(self._console, field="metrics")
        self._task = None

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def images(self, total: int) -> Iterator[Callable[[int], None]]:
        """Shows episodes whose images are prepared; yields what is told how many are."""
        task = self._bar.add_task("resizing episodes' images", total=total, metrics="")
        yield lambda done: self._bar.update(task, completed=done)
        self._bar.remove_task(task)

    def begin(self, step: int, steps: int | None) -> None:
        """Shows steps from now on."""
        self._task = self._bar.add_task("training", total=steps, completed=step, metrics="compiling")

    def update(self, step: int, steps: int | None, values: Metrics) -> None:
        """A step was taken."""
        if self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, metrics=_loss(values, ""))

    def line(self, row: Metrics, steps: int | None) -> None:
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


def _loss(row: Metrics, prefix: str) -> str:
    text = f"loss {row[prefix + 'loss']:.4f}"
    if prefix + "located" in row:
        flow, where = row[prefix + "flow_loss"], row[prefix + "grounding_loss"]
        found = f"{row[prefix + 'located']:.0%} located"
        if prefix + "place_located" in row:
            found += f", {row[prefix + 'place_located']:.0%} of places"
        text += f" (actions {flow:.4f}, grounding {where:.3f}, {found})"
    return text


def draw_loss(rows: Sequence[Metrics], path: Path, title: str) -> None:
    """Training and validation loss over the steps, as a PNG at `path`, which is replaced; both axes end where the data do."""
    from matplotlib.figure import Figure

    train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if train:
        steps, losses = np.array(train).T
        axes.plot(steps, losses, color="0.75", linewidth=0.8, label="training")
        width = max(1, round(_SMOOTH * len(losses)))
        if width > 1:
            smooth = np.convolve(losses, np.ones(width) / width, "valid")
            axes.plot(steps[width - 1 :], smooth, color="C0", label=f"training, mean of {width} points")
    if held:
        axes.plot(*np.array(held).T, color="C1", marker="o", markersize=3, label="held-out episodes, averaged weights")
    axes.set(xlabel="step", ylabel="loss", title=title, yscale="log")
    axes.grid(alpha=0.3, which="both")
    if train or held:
        axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
