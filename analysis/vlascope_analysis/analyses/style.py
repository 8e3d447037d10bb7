"""What all figures share: size of type and colours."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1b2430", "#667085", "#e4e7ec"
FIRST, SECOND, ALERT = "#1f5fa8", "#d9772b", "#b42318"
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "vlascope", ["#f5f7fa", "#c6dbea", "#7fb2d0", "#3d83b5", "#1d5591", "#0d2b57"]
)
"""Light to dark in even steps of lightness, so that it survives a grey printer and colour blindness."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, drawn by Agg whatever display there is."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes) -> None:
    """Quiet axes: no box, small grey ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=9, labelcolor=INK, length=3)
    axes.xaxis.label.set(size=10, color=INK)
    axes.yaxis.label.set(size=10, color=INK)


def head(figure: Figure, title: str, subtitle: str) -> None:
    """Title and what it is about, left above everything; lines wrapped to the figure's width."""
    columns = int(figure.get_figwidth() * 13)
    below = "\n".join(textwrap.wrap(subtitle, int(columns * 1.12)))
    figure.suptitle("\n".join(textwrap.wrap(title, columns)), x=0.012, ha="left", size=12, weight="bold", color=INK)
    figure.supxlabel(below, x=0.012, ha="left", size=8.5, color=QUIET)


def short_names(instructions: list[str], width: int, lines: int = 2) -> list[str]:
    """Instructions as axis labels: wrapped, and cut where they are too long."""
    names = []
    for text in instructions:
        wrapped = textwrap.wrap(text, width) or [""]
        if len(wrapped) > lines:
            wrapped = [*wrapped[: lines - 1], textwrap.shorten(" ".join(wrapped[lines - 1 :]), width, placeholder=" …")]
        names.append("\n".join(wrapped))
    return names
