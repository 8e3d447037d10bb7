"""The loss curve as a picture. Knows nothing of training but the lines of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SMOOTH = 0.05
"""Share of the run that a point of the smooth line averages over."""


def draw_loss(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Training and validation loss over the steps, both axes' ends from the data; replaces `path` in one step."""
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
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(path)
