"""The figure of a mix: how gradient descent went, or the losses of all policies where there was none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlascope_server.mixing.judgement import Judged, interval
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
    if not (descents or mixed.judged_inputs):
        return None
    panels = len(descents) * 2 + bool(mixed.judged_inputs)
    figure = Figure(figsize=(5.6 * panels, 4.6), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for found, pair in zip(descents, zip(axes[0::2], axes[1::2], strict=False), strict=False):
        _losses_along(pair[0], found)
        _weights_along(pair[1], found, [_short(location) for location in mixed.inputs.locations])
    if mixed.judged_inputs:
        _losses_of_all(axes[-1], mixed.judged_inputs, mixed.judged_mixes, mixed.method)
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
    axes.set(xlabel="iteration", ylabel="weight", ylim=(0, 1), title=f"weights ({weights.shape[1]} groups)")
    axes.legend(fontsize=8)


def _losses_of_all(axes: Axes, inputs: Sequence[Judged], mixes: Sequence[Judged], method: str) -> None:
    rows = [*inputs, *mixes][::-1]
    for place, row in enumerate(rows):
        found = interval(row.validation.values)
        colour = (
            _COLOURS[5] if row.weights is None and row in inputs else _COLOURS[1] if row.name == method else _COLOURS[0]
        )
        half = [[found.mean - found.low], [found.high - found.mean]] if found.episodes > 1 else None
        axes.errorbar([found.mean], [place], xerr=half, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows], fontsize=8)
    axes.set(xlabel="loss on the validation episodes, 95% intervals", title="checkpoints (grey) and mixes")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}"
