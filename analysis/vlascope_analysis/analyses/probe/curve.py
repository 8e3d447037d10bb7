"""The training curve of a probe."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlascope_analysis.analyses.style import FIRST, GRID, QUIET, SECOND, dress, head, new_figure


def curve_figure(history: pd.DataFrame, title: str, subtitle: str = "") -> Figure:
    """Loss by epoch: one thin line a fit (an assignment and fold), and their mean where every fit still trains.

    Args:
        history: columns assignment, fold, epoch, train_loss, validation_loss (the table `history` of a probe).
        title: of the figure.
        subtitle: what it was trained on.
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    fits = len(history.drop_duplicates(["assignment", "fold"]))
    for column, colour, name in (("train_loss", FIRST, "training"), ("validation_loss", SECOND, "validation")):
        wide = history.pivot(index="epoch", columns=["assignment", "fold"], values=column)
        epochs, losses = wide.index.to_numpy(), wide.to_numpy(float)
        if np.isnan(losses).all():
            continue
        axes.plot(epochs, losses, color=colour, lw=0.9, alpha=0.45)
        # nan past the end of the shortest fit: there the mean would be of fewer
        label = f"{name}, mean of {fits} fits" if fits > 1 else name
        axes.plot(epochs, losses.mean(axis=1), color=colour, lw=2.2, label=label)
        if column == "validation_loss":
            losses = losses[:, ~np.isnan(losses).all(axis=0)]
            lowest = np.nanargmin(losses, axis=0)
            kept = losses[lowest, np.arange(losses.shape[1])]
            axes.plot(
                epochs[lowest], kept, "o", ms=5, color=colour, mec="white", mew=0.8, label="lowest of a fit: kept"
            )
    axes.set(xlabel="epoch", ylabel="1 - cosine similarity")
    axes.set_xlim(left=1 if len(history) > fits else 0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, labelcolor=QUIET)
    dress(axes)
    head(figure, title, subtitle)
    return figure
