"""Differences between cells in words, and as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from vlascope_base.text import printable

from vlascope_analysis.analyses.style import FIRST, GRID, QUIET, dress, head, new_figure
from vlascope_analysis.results import Result


def compare_summary(result: Result, confidence: float) -> str:
    """For the terminal and the summary file."""
    table = result.tables["differences"]
    width = max(len(f"{row['first']} - {row['second']}") for row in table.to_dict("records"))
    lines = [
        f"{table['score'].iloc[0]}, {table['episodes'].iloc[0]} paired episodes, {table['test_units'].iloc[0]} independent"
        " units",
        f"{'':<{width}} {'first':>6} {'second':>6} {'differ':>7} {f'{100 * confidence:g} % interval':>17} {'all together':>17}",
    ]
    for row in table.to_dict("records"):
        lines.append(
            f"{row['first'] + ' - ' + row['second']:<{width}} {row['first_score']:>6.3f} {row['second_score']:>6.3f}"
            f" {row['difference']:>+7.3f} {_interval(row['low'], row['high']):>17}"
            f" {_interval(row['low_together'], row['high_together']):>17}"
        )
    count = np.count_nonzero(table["differs"])
    lines += [
        "",
        f"{count} of {len(table)} differences can be told from zero: it is outside the interval for all rows together."
        if count
        else "No difference can be told from zero. That there is none cannot be concluded either.",
        *(f"Warning: {printable(warning)}" for warning in result.warnings),
    ]
    return "\n".join(lines) + "\n"


def differences_figure(table: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Each difference with its two intervals, the wider one for all rows together.

    Args:
        table: `differences` of a comparison.
        title: of the figure.
        subtitle: what was compared.
    """
    figure = new_figure(8.0, min(24.0, 1.8 + 0.28 * len(table)))
    axes = figure.add_subplot()
    rows = range(len(table), 0, -1)
    axes.hlines(rows, table["low_together"], table["high_together"], color=FIRST, lw=1)
    axes.hlines(rows, table["low"], table["high"], color=FIRST, lw=3, alpha=0.5)
    axes.plot(table["difference"], list(rows), "o", ms=4, color=FIRST)
    axes.axvline(0, color=QUIET, lw=1)
    axes.set_yticks(
        list(rows), [f"{first} - {second}" for first, second in zip(table["first"], table["second"], strict=True)]
    )
    axes.set_ylim(0.4, len(table) + 0.6)
    axes.set_xlabel(f"difference of {str(table['score'].iloc[0]).replace('_', ' ')}")
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    dress(axes)
    axes.tick_params(labelsize=8)
    head(figure, title, subtitle)
    return figure


def _interval(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"
