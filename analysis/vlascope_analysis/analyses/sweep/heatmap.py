"""The heat map of a sweep."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlascope_analysis.analyses.style import ALERT, INK, QUIET, SEQUENTIAL, dress, head, new_figure
from vlascope_analysis.statistics.evaluation import readable

Cell = dict[Hashable, Any]
"""A row of the table `cells` of a sweep, by column."""
TITLES = {"vlm": "VLM", "text_only": "VLM,\ntext tokens", "action": "action expert"}


def heatmap_figure(table: pd.DataFrame, title: str, subtitle: str = "", window: str = "window") -> Figure:
    """Accuracy by layer and denoise step; experts side by side on one colour scale, from chance to 1.

    Where cells have windows of time, those stand in the place of denoise steps, and of each expert the step of its
    best cell is shown. A dot marks a cell that cannot be told from chance: by `p_value_best` where labels were
    permuted, else by its interval. A frame marks the best cell of all by rank accuracy. Where a control run was scored, its
    cells stand below, on the same scale.

    Args:
        table: `cells` of a sweep.
        title: of the figure.
        subtitle: what was tested.
        window: what windows are, in words.
    """
    best = table.loc[table["rank_accuracy"].idxmax()].to_dict()
    across = "window" if "window" in table else "denoise_step"
    grids = {str(expert): _Grid(own, across) for expert, own in table.groupby("expert", sort=False)}
    columns = [len(grid.columns) for grid in grids.values()]
    controlled = bool(np.any(table["control_accuracy"].notna().to_numpy()))
    scores = ["accuracy", "control_accuracy"][: 1 + controlled]
    high = max(2.2, 0.33 * max(len(grid.layers) for grid in grids.values())) * len(scores)
    figure = new_figure(
        max(6.0, 0.46 * sum(columns) + 1.25 * len(grids) + 1.2), min(12.0 + 8.0 * (len(scores) - 1), high + 2.0)
    )
    every = figure.subplots(len(scores), len(grids), squeeze=False, width_ratios=[max(n, 1.4) for n in columns])
    floor = float(np.max(table["chance"]))
    norm = Normalize(min(floor, 0.99), 1)
    colours = ScalarMappable(norm, SEQUENTIAL)
    for line, score in zip(every, scores, strict=True):
        for axes, (expert, grid) in zip(line, grids.items(), strict=True):
            name = TITLES.get(expert, expert) + (",\ncontrol run" if score == "control_accuracy" else "")
            _label(axes, grid, name, window, first=axes is line[0])
            _fill(axes, grid, score, norm, floor, best)
    bar = figure.colorbar(colours, ax=every.ravel().tolist(), fraction=0.035, pad=0.02, extend="min")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=QUIET)
    bar.set_label("accuracy of the nearest label", size=9, color=QUIET)
    head(figure, title, subtitle)
    return figure


def _fill(axes: Axes, grid: _Grid, score: str, norm: Normalize, floor: float, best: Cell) -> None:
    """One panel's colours and numbers; dots and the frame are of the policy's own cells."""
    axes.imshow(grid.shares(score), cmap=SEQUENTIAL, norm=norm, origin="lower", aspect="auto")
    for cell in grid.cells:
        y, x = grid.place(cell)
        value = cell[score]
        if pd.isna(value):
            axes.text(x, y, "-", ha="center", va="center", size=7.5, color=QUIET)
            continue
        share = f"{value:.2f}".lstrip("0") if value < 1 else "1"
        dark = value > floor + 0.48 * (1 - floor)
        weak = score == "accuracy" and not readable(cell, "p_value_best")
        ink = "white" if dark else QUIET if weak else INK
        axes.text(x, y, share, ha="center", va="center", size=7.5, color=ink)
        if weak:
            axes.plot(x + 0.38, y + 0.3, "o", ms=1.8, color=QUIET)
        same = all(_same(cell[name], best[name]) for name in ("expert", "layer", "denoise_step", grid.across))
        if same and score == "accuracy":
            frame = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=ALERT, lw=2, zorder=5, clip_on=False)
            axes.add_patch(frame)


class _Grid:
    """One expert's cells by layer and denoise step, or window; None stands for a cell that has no layer or no step."""

    def __init__(self, table: pd.DataFrame, across: str):
        self.across = across
        self.step: int | None = None
        self.cells: list[Cell] = table.to_dict("records")
        if across == "window":
            scored = [cell for cell in self.cells if not pd.isna(cell["rank_accuracy"])] or self.cells
            self.step = _number(max(scored, key=lambda cell: cell["rank_accuracy"])["denoise_step"])
            self.cells = [cell for cell in self.cells if _number(cell["denoise_step"]) == self.step]
        self.layers = _sorted({_number(cell["layer"]) for cell in self.cells})
        if across == "window":
            self.columns: list[int | str | None] = list(dict.fromkeys(cell["window"] for cell in self.cells))
        else:
            self.columns = list(_sorted({_number(cell["denoise_step"]) for cell in self.cells}))

    def shares(self, score: str) -> np.ndarray:
        """A column of the cells by row and column, float64 [layers, columns]."""
        found = np.full((len(self.layers), len(self.columns)), np.nan)
        for cell in self.cells:
            found[self.place(cell)] = cell[score]
        return found

    def place(self, cell: Cell) -> tuple[int, int]:
        """Row and column of a cell."""
        column = cell["window"] if self.across == "window" else _number(cell["denoise_step"])
        return self.layers.index(_number(cell["layer"])), self.columns.index(column)


def _same(one: object, other: object) -> bool:
    return one == other or (one is pd.NA and other is pd.NA)


def _number(value: float) -> int | None:
    return None if pd.isna(value) else int(value)


def _sorted(numbers: set[int | None]) -> list[int | None]:
    return sorted(numbers, key=lambda number: -1 if number is None else number)


def _label(axes: Axes, grid: _Grid, name: str, across: str, first: bool) -> None:
    name += "" if grid.step is None else f", step {grid.step}"
    axes.set_title(name, size=10, color=INK, loc="left")
    for ticks, numbers in ((axes.set_yticks, grid.layers), (axes.set_xticks, grid.columns)):
        ticks(range(len(numbers)), ["" if number is None else str(number) for number in numbers])
    axes.set_xlabel(across if grid.across == "window" else "denoise step" if grid.columns != [None] else "")
    axes.set_ylabel("layer" if first and grid.layers != [None] else "")
    dress(axes)
    axes.set_yticks(np.arange(len(grid.layers) + 1) - 0.5, minor=True)
    axes.set_xticks(np.arange(len(grid.columns) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=8)
