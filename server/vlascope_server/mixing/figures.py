"""The figure of a mix: how gradient descent went, or the losses of all policies where there was none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlascope_server.mixing.judgement import Judged, best_of, compared, interval
from vlascope_server.mixing.methods import Found
from vlascope_server.mixing.mix import Mixed

_COLOURS = "#1f5fa8", "#d9772b", "#2f7d4f", "#7a4fa3", "#b42318", "#667085"
_LABEL = 34
"""Characters of a policy's name."""
_LINES = 12
"""Groups whose weights are drawn one by one."""


def curve(mixed: Mixed) -> Figure | None:
    """The loss and the weights along gradient descent, and the losses of every policy; None where there is neither."""
    descents = [found for found in mixed.found if found.steps]
    rows = len(descents) + bool(mixed.judged_inputs)
    if not rows:
        return None
    figure = Figure(figsize=(11, 4.2 * rows), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, 2, squeeze=False)
    for found, (left, right) in zip(descents, panels, strict=False):
        _losses_along(left, found)
        _weights_along(right, found, [_short(location) for location in mixed.inputs.locations])
    if mixed.judged_inputs:
        _losses_of_all(panels[-1], mixed.judged_inputs, mixed.judged_mixes, mixed.method)
    return figure


def _losses_along(axes: Axes, found: Found) -> None:
    axes.plot([step.loss for step in found.steps], color=_COLOURS[0])
    axes.set(xlabel="iteration", ylabel="loss of the mix on its frames", title=found.method.replace("_", " "))


def _weights_along(axes: Axes, found: Found, names: Sequence[str]) -> None:
    """Of each checkpoint the weights of the groups, thin, and their mean, thick."""
    weights = np.stack([*(step.weights for step in found.steps), found.weights])
    for k, name in enumerate(names):
        colour = _COLOURS[k % len(_COLOURS)]
        if 1 < weights.shape[1] <= _LINES:
            axes.plot(weights[:, :, k], color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(weights[:, :, k].mean(axis=1), color=colour, linewidth=2, label=name)
        if weights.shape[1] > _LINES:
            axes.fill_between(
                range(len(weights)),
                weights[:, :, k].min(axis=1),
                weights[:, :, k].max(axis=1),
                color=colour,
                alpha=0.15,
            )
    axes.set(
        xlabel="iteration",
        ylabel="weight",
        ylim=(0, 1),
        title="weights" if weights.shape[1] == 1 else f"weights: mean of {weights.shape[1]} groups",
    )
    axes.legend(fontsize=8)


def _losses_of_all(panels: Sequence[Axes], inputs: Sequence[Judged], mixes: Sequence[Judged], method: str) -> None:
    """Every policy's loss, and less that of the best checkpoint, which is paired by episode and far more certain."""
    best, rows = best_of(inputs), [*inputs, *mixes][::-1]
    for place, row in enumerate(rows):
        colour = _COLOURS[5] if row in inputs else _COLOURS[1] if row.name == method else _COLOURS[0]
        for axes, found in zip(panels, (interval(row.validation.values), compared(row, best)), strict=True):
            half = [[found.mean - found.low], [found.high - found.mean]] if found.episodes > 1 else None
            axes.errorbar([found.mean], [place], xerr=half, fmt="o", color=colour, capsize=3)
    panels[0].set_yticks(range(len(rows)), [_short(row.name) for row in rows], fontsize=8)
    panels[0].set(xlabel="loss on the validation episodes, 95% intervals", title="checkpoints (grey) and mixes")
    panels[1].set_yticks(range(len(rows)), [""] * len(rows))
    panels[1].axvline(0, color="0.7", linewidth=1)
    panels[1].set(xlabel="less the best checkpoint's, episode by episode", title=f"difference to {_short(best.name)}")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}"
