"""What summaries and figures of several analyses say of a label and its design: one sentence, in one place."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from vlascope_base.text import listed, printable

from vlascope_analysis.analyses.controls import beaten_by
from vlascope_analysis.data.control import HOW
from vlascope_analysis.data.questions import Question, question_of
from vlascope_analysis.statistics.permutation import LEVEL

Row = Mapping[Hashable, Any]
"""A row of the table `cells` or `scores`: what `Design.facts` says of the design, by column."""

CROSSED = "`vlascope-sim rollout --prompt-mode crossed` tells each scene several of them"


def question_in(row: Row) -> Question:
    """The label that a row's design predicts."""
    return question_of(str(row["label_name"]))


def label_line(row: Row) -> str:
    """The label with what it says of an episode."""
    question = question_in(row)
    name = question.label.replace("_", " ")
    return f"{name}: {question.meaning}"


def sentence(text: str) -> str:
    """A text as a sentence begins with it."""
    return text[:1].upper() + text[1:]


def scene_tells(row: Row) -> bool:
    """Whether the scene alone tells the label in this design."""
    return bool(not row["crossed"] and row["scene_p_value"] <= LEVEL and row["scene_accuracy"] > row["chance"] + 1e-9)


def design_lines(row: Row) -> list[str]:
    """What can be told of the label without a look at any state: before any number."""
    question, chance = question_in(row), f"chance {row['chance']:.2f}"
    if row["crossed"]:
        lines = [
            f"The scene tells nothing of {question.it}: each scene has several {question.several}, which count alike, and "
            f"answers are among them (best answer for each scene: right in {row['scene_accuracy']:.2f}, {chance})."
        ]
    elif pd.isna(row["scene_accuracy"]):
        lines = [
            f"Whether the scene tells {question.it} is not known: the store does not say which task each episode is of."
        ]
    elif scene_tells(row):
        lines = [
            f"The scene alone tells {question.it}: the best answer for each scene is right in {row['scene_accuracy']:.2f} "
            f"({chance}, labels at random {row['scene_at_random']:.2f}). Whatever tells scenes apart passes for {question.it} "
            f"here; {CROSSED}."
        ]
    else:
        lines = [
            f"That the scene tells {question.it} was not found: the best answer for each scene is right in "
            f"{row['scene_accuracy']:.2f}, with labels at random in {row['scene_at_random']:.2f} ({chance})."
        ]
    if row["init_state_p_value"] <= LEVEL and row["init_state_accuracy"] > row["chance"] + 1e-9:
        sides = "stand on both sides of the split" if row["split"] == "episode" else "are on one side of the split"
        lines.append(
            f"Episodes of one initial state tell {question.it} of each other ({row['init_state_accuracy']:.2f}); they {sides}."
        )
    return lines


def but_the_scene(row: Row) -> str:
    """What stands behind a sentence that says that a label can be read; empty where the scene does not tell it."""
    if not scene_tells(row):
        return ""
    return (
        f" But the scene alone tells it ({row['scene_accuracy']:.2f}): that a state knows more than its scene cannot be "
        f"concluded; {CROSSED}."
    )


def scene_hint(row: Row) -> str:
    """The same behind the title of a figure."""
    return " (the scene alone tells it)" if scene_tells(row) else ""


def control_lines(row: Row) -> list[str]:
    """What of an accuracy the control run reaches already.

    Args:
        row: of the cell that is spoken of, with its scores.
    """
    if pd.isna(row["control_accuracy"]):
        return [f"Not compared with weights at random: {HOW}, and --control-run scores the same cells on it."]
    name = printable(row["control"])
    # what a server calls a policy of weights at random
    whose = f"weights at random ({name}) reach" if name.startswith("drawn:") else f"the control run ({name}) reaches"
    over = f"{row['over_control']:+.3f} ({row['over_control_low']:+.3f} to {row['over_control_high']:+.3f})"
    ending = (
        f"the difference is {over}"
        if row["over_control_low"] > 0
        else f"that more is read here cannot be concluded (difference {over})"
    )
    return [f"Of the accuracy {row['accuracy']:.3f}, {whose} {row['control_accuracy']:.3f}: {ending}."]


def baseline_lines(table: pd.DataFrame, whose: str) -> list[str]:
    """What needs no hidden state, or no meaning, beside an accuracy.

    Args:
        table: `baselines`.
        whose: what is compared with them, in words, as a sentence begins with it.
    """
    lines = ["Baselines without a hidden state, and labels without a meaning (control task):"]
    for row in table.to_dict("records"):
        name = f"  {row['baseline']:<16}"
        if row["note"]:
            lines.append(f"{name} not scored: {row['note']}")
            continue
        lines.append(
            f"{name} accuracy {row['accuracy']:.3f} (chance {row['chance']:.3f}), difference {row['difference']:+.3f}"
            f" ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
        )
    better, worse = beaten_by(table)
    if better:
        lines.append(f"{whose} does better than {listed(better)}.")
    if worse:
        lines.append(f"That {whose[0].lower()}{whose[1:]} does better than {listed(worse)} cannot be concluded.")
    return lines
