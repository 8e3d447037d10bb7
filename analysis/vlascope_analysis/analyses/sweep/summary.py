"""A sweep's result in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from vlascope_base.text import printable

from vlascope_analysis.analyses.words import (
    baseline_lines,
    but_the_scene,
    control_lines,
    design_lines,
    label_line,
    question_in,
    sentence,
)
from vlascope_analysis.results import Result
from vlascope_analysis.statistics.permutation import LEVEL


def sweep_summary(result: Result) -> str:
    """The best cell of each expert, and what can be said of it."""
    table = result.tables["cells"]
    row = table.iloc[0].to_dict()
    windows = "window" in table
    lines = [
        *design_lines(row),
        "",
        f"Sweep of {len(table)} cells, label {label_line(row)}",
        f"{row['episodes']} episodes of {row['scenes']} scenes, from {row['init_states']} initial states, with {row['classes']}"
        f" {question_in(row).several}; held out: {row['split']}",
        f"chance {row['chance']:.3f} (of rank accuracy 0.5), cosine similarity of the mean label"
        f" {row['constant_cosine']:.3f}",
        "",
        "best cell of each expert, by rank accuracy",
        f"{'expert':<9} {'layer':>5} {'step':>4} {'accuracy':>8} {'interval':>14} {'rank':>5} {'cosine':>6} {'shuffled':>8}"
        f" {'p':>5} {'p of best':>9}" + ("  window" if windows else ""),
    ]
    for expert, own in table.groupby("expert", sort=False):
        if bool(np.isnan(own["rank_accuracy"]).all()):
            lines.append(f"{expert:<9} no cell can be scored")
            continue
        best = own.loc[own["rank_accuracy"].idxmax()]
        interval = f"{best['accuracy_low']:.3f} to {best['accuracy_high']:.3f}"
        lines.append(
            f"{expert:<9} {_axis(best['layer']):>5} {_axis(best['denoise_step']):>4} {best['accuracy']:>8.3f} {interval:>14}"
            f" {best['rank_accuracy']:>5.3f} {best['cosine_similarity']:>6.3f} {best['shuffled_accuracy']:>8.3f}"
            f" {best['p_value']:>5.3f} {best['p_value_best']:>9.3f}" + (f"  {best['window']}" if windows else "")
        )
    best = table.loc[table["rank_accuracy"].idxmax()].to_dict()
    lines += [
        "",
        *_verdict(table),
        "",
        f"The best cell ({_place(best)}) beside controls, by accuracy; that it was chosen is not corrected for.",
        *control_lines(best), *baseline_lines(result.tables["baselines"], "The best cell"),
              *(f"Warning: {printable(warning)}" for warning in result.warnings)]  # fmt: skip
    return "\n".join(lines) + "\n"


def _verdict(table: pd.DataFrame) -> list[str]:
    row = table.iloc[0].to_dict()
    it = question_in(row).it
    if not row["permutations"]:
        return ["No permutations were asked for: whether any cell is better than chance is not tested."]
    found = table[table["p_value_best"] <= LEVEL]
    lines = (
        [
            f"{sentence(it)} can be read in {len(found)} of {len(table)} cells (p of best at most {LEVEL}).{but_the_scene(row)}"
        ]
        if len(found)
        else [
            f"That {it} can be read in any cell cannot be concluded",
            f"(no p of best is at most {LEVEL}), nor that it is absent.",
        ]
    )
    return [
        *lines,
        "The best of many cells looks better than it is: its accuracy and interval are",
        "not corrected for having been chosen. `p of best` is: how often the best cell",
        "of this sweep does as well when labels are permuted.",
    ]


def _place(cell: Mapping[Hashable, Any]) -> str:
    """A cell as `compare` names it."""
    text = f"{cell['expert']}:{_axis(cell['layer'])}"
    text += "" if pd.isna(cell["denoise_step"]) else f":{cell['denoise_step']}"
    return text + (f"@{cell['window']}" if "window" in cell else "")


def _axis(value: object) -> str:
    """A layer or a denoise step; `-` where a cell has none."""
    return "-" if value is pd.NA else str(value)
