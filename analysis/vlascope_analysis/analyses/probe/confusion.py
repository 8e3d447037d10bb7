"""The confusion matrix of a probe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlascope_analysis.analyses.style import INK, QUIET, SEQUENTIAL, dress, head, new_figure, short_names
from vlascope_analysis.data.questions import Question

NAMED = 20
"""Up to so many classes are written out, and cells have their share."""


def confusion_figure(
    predictions: pd.DataFrame, classes: Sequence[str], question: Question, title: str, subtitle: str = ""
) -> Figure:
    """Which class was taken for which: each row is a true one, its cells the shares of answers.

    Args:
        predictions: columns label and predicted, numbers into `classes`, and weight (the table `predictions` of a probe).
        classes: in words.
        question: which label they are of.
        title: of the figure.
        subtitle: what was tested.
    """
    C = len(classes)
    counts = np.zeros((C, C))
    cells = predictions["label"].to_numpy(), predictions["predicted"].to_numpy()
    np.add.at(counts, cells, predictions["weight"].to_numpy())
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    named = C <= NAMED
    side = min(9.0, max(3.0, 0.48 * C))
    figure = new_figure(side + (3.9 if named else 1.6), side + 1.5)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
    if named:
        texts = short_names(list(classes), 36)
        axes.set_yticks(range(C), [f"{text}  {n:>2}" for n, text in enumerate(texts)])
        axes.set_xticks(range(C))
        for true in range(C):
            for answer in range(C):
                if shares[true, answer] > 0:
                    colour = "white" if shares[true, answer] > 0.5 else INK
                    share = f"{shares[true, answer]:.2f}".lstrip("0") if shares[true, answer] < 1 else "1"
                    axes.text(answer, true, share, ha="center", va="center", size=8, color=colour)
    else:
        ticks = range(0, C, max(1, C // 20))
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
    axes.set_xticks(np.arange(C + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(C + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.2 if named else 0.3)
    axes.set(xlabel=f"nearest {question.one}", ylabel="" if named else f"true {question.one}")
    dress(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=8)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=QUIET)
    bar.set_label("share of the episodes that have it", size=8.5, color=QUIET)
    head(figure, title, subtitle)
    return figure
