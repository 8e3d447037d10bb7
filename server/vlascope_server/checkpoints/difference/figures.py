"""Figures of a difference: an overview in four panels, the groups in three, and layers against components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vlascope_server.checkpoints.difference.report import TOP, defined, largest, mean
from vlascope_server.checkpoints.difference.result import GROUPS, Difference

_COLOURS = dict(zip(GROUPS, ("#b42318", "#1f5fa8", "#d9772b", "#2f7d4f", "#7a4fa3", "#667085"), strict=True))
_BAR = "#3d83b5"
_LABEL = 46
"""Characters of a parameter's name beside a bar."""


def overview(difference: Difference) -> Figure:
    """Distributions of L2 norms, cosines and relative differences over parameters, and the largest by L2 norm."""
    figure, axes = _panels(2, 2, (15, 10.5), difference)
    sums = [p.sums for p in difference.parameters]
    _histogram(axes[0], [s.l2 for s in sums], "L2 norm", logarithmic=True)
    _histogram(axes[1], defined(s.cosine for s in sums), "cosine similarity")
    _histogram(axes[2], [s.relative for s in sums], "relative difference", logarithmic=True)
    top = largest(difference)[:TOP][::-1]
    axes[3].barh(range(len(top)), [p.sums.l2 for p in top], color=[_COLOURS[p.group] for p in top])
    axes[3].set_yticks(range(len(top)), [_short(p.name) for p in top], fontsize=7)
    if not difference.sums.changed:
        axes[3].set_xlim(0, 1)
    axes[3].set(xlabel="L2 norm", title=f"Top {len(top)} parameters by L2 norm")
    _legend(axes[3], sorted({p.group for p in top}, key=list(GROUPS).index))
    return figure


def groups(difference: Difference) -> Figure:
    """Parameter counts by group, average metrics by group, and every parameter's metrics against each other."""
    figure, axes = _panels(1, 3, (17, 5.5), difference)
    found = difference.by_group()
    names = list(found)
    bars = axes[0].bar(names, [len(found[name]) for name in names], color=[_COLOURS[name] for name in names])
    axes[0].bar_label(bars)
    axes[0].set(ylabel="parameters", title="Parameter count by group")
    rows = {
        "L2 norm": [mean([p.sums.l2 for p in found[name]]) for name in names],
        "relative difference": [mean([p.sums.relative for p in found[name]]) for name in names],
        "1 - cosine similarity": [1 - mean(defined(p.sums.cosine for p in found[name])) for name in names],
    }
    for k, (metric, values) in enumerate(rows.items()):
        places = np.arange(len(names)) + 0.27 * (k - 1)
        axes[1].bar(places, np.nan_to_num(values), 0.25, label=metric, color=("#0d2b57", "#3d83b5", "#c6dbea")[k])
    axes[1].set_xticks(range(len(names)), names)
    axes[1].set(title="Average over a group's parameters")
    _logarithmic(axes[1], "y", [value for values in rows.values() for value in values])
    axes[1].legend(fontsize=8)
    for name in names:
        points = [(p.sums.l2, p.sums.relative) for p in found[name]]
        axes[2].scatter(*zip(*points, strict=True), s=22, alpha=0.75, color=_COLOURS[name], label=name)
    axes[2].set(xlabel="L2 norm", ylabel="relative difference", title="Every parameter")
    _logarithmic(axes[2], "x", [p.sums.l2 for p in difference.parameters], keeps_zeros=True)
    _logarithmic(axes[2], "y", [p.sums.relative for p in difference.parameters], keeps_zeros=True)
    axes[2].legend(fontsize=8)
    for axis in axes[:2]:
        axis.tick_params(axis="x", rotation=25)
    return figure


def heat_map(difference: Difference) -> Figure:
    """The relative difference of every layer, a row for each kind of parameter in each component; grey: no such layer."""
    rows = difference.by_layer()
    depth = max((len(layers) for layers in rows.values()), default=1)
    figure, (axes,) = _panels(1, 1, (max(7, 3.5 + 0.45 * depth), 2.2 + 0.36 * max(1, len(rows))), difference)
    if not rows:
        axes.text(0.5, 0.5, "no parameter with layers was compared", ha="center", va="center")
        axes.set_axis_off()
        return figure
    values = np.full((len(rows), depth), np.nan)
    for k, layers in enumerate(rows.values()):
        values[k, : len(layers)] = [sums.relative for sums in layers]
    positive = values[values > 0]
    scale = LogNorm(positive.min(), positive.max()) if positive.size and (values[~np.isnan(values)] > 0).all() else None
    axes.set_facecolor("0.85")
    image = axes.imshow(values, aspect="auto", cmap="viridis", norm=scale)
    axes.set_yticks(range(len(rows)), [f"{component}: {kind}" for component, kind in rows], fontsize=8)
    axes.set_xticks(range(0, depth, 1 if depth <= 12 else 2))
    axes.set(xlabel="layer", title="Relative difference by layer and component")
    figure.colorbar(image, ax=axes, label="relative difference")
    return figure


def _panels(rows: int, columns: int, size: tuple[float, float], difference: Difference) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"A: {difference.a.location}    B: {difference.b.location}", fontsize=10, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def _histogram(axes: Axes, values: Sequence[float], what: str, *, logarithmic: bool = False) -> None:
    """How many parameters have which value; on a logarithmic axis there is no place for zeros, which the title counts."""
    title, positive = f"Distribution of {what}", [value for value in values if value > 0]
    bins = min(30, len(set(values)) or 1)
    if logarithmic and len(set(positive)) > 1:
        if zeros := len(values) - len(positive):
            title += f" ({zeros} zeros not shown)"
        axes.set_xscale("log")
        axes.hist(positive, bins=list(np.geomspace(min(positive), max(positive), 31)), color=_BAR)
    elif values and math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-300):
        # one value, or as good as: there is no room for thirty bins between them
        axes.bar([0], [len(values)], width=0.1, color=_BAR)
        axes.set_xlim(-1, 1)
        axes.set_xticks([0], [f"{min(values):.6g}"])
    else:
        axes.hist(values, bins=bins, color=_BAR)
        axes.ticklabel_format(axis="x", useOffset=False)
    axes.set(xlabel=what, ylabel="parameters", title=title)


def _logarithmic(axes: Axes, axis: Literal["x", "y"], values: Sequence[float], *, keeps_zeros: bool = False) -> None:
    """A logarithmic axis where a value is positive; with `keeps_zeros` it goes on evenly from the smallest of them to 0."""
    positive = [value for value in values if value > 0]
    scale = axes.set_xscale if axis == "x" else axes.set_yscale
    if positive and keeps_zeros and len(positive) < len(values):
        scale("symlog", linthresh=min(positive))
    elif positive:
        scale("log")
    else:
        (axes.set_xlim if axis == "x" else axes.set_ylim)(0, 1)


def _legend(axes: Axes, names: Sequence[str]) -> None:
    axes.legend(handles=[Patch(color=_COLOURS[name], label=name) for name in names], fontsize=8, loc="lower right")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}"
