"""What an accuracy is compared with: weights at random, what is known without any hidden state, labels without a meaning.

Every comparison is paired: both answered the same episodes, by the same design.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlascope_analysis.data.features import fault
from vlascope_analysis.data.metadata_features import scene_features, time_features
from vlascope_analysis.probes.closed_form import closed_form
from vlascope_analysis.statistics.evaluation import Design, Scores, score_row
from vlascope_analysis.statistics.intervals import Means

NO_CONTROL: dict[str, Any] = {"control": None} | dict.fromkeys(
    (*(f"control_{score}{end}" for score in ("accuracy", "rank_accuracy") for end in ("", "_low", "_high")),
     "over_control", "over_control_low", "over_control_high"), np.nan,
)  # fmt: skip
"""The columns of a cell that was not compared with a control run."""

CONTROL_TASKS = 5
"""Random labellings of scenes that the control task averages over."""

_SCORES = ("accuracy", "accuracy_low", "accuracy_high", "rank_accuracy", "rank_accuracy_low", "rank_accuracy_high")


def without_permutations(design: Design) -> Design:
    """The same design with the true labels alone, for what is compared by interval."""
    return dataclasses.replace(design, labellings=design.labellings[:1])


def against_control(scores: Scores, control: Scores, design: Design, name: str) -> dict[str, Any]:
    """The columns of a cell that say what the same cell of a control run reaches, and how much more this one does."""
    row = score_row(control, without_permutations(design))
    over = design.means.difference(scores.right - control.right, design.config.confidence)
    return {
        "control": name,
        **{f"control_{column}": row[column] for column in _SCORES},
        "over_control": over.mean, "over_control_low": over.low, "over_control_high": over.high,
    }  # fmt: skip


def baselines(
    known: Mapping[str, np.ndarray | None],
    frames: pd.DataFrame,
    of_frame: np.ndarray,
    x: np.ndarray,
    scores: Scores,
    design: Design,
) -> pd.DataFrame:
    """What is known without a hidden state, and labels without a meaning, beside the scores of one cell.

    The control task (Hewitt & Liang 2019) gives each type a class at random, and asks how well the cell's own features tell it:
    what a probe can learn by heart. A type is what training and test parts share and could be learnt by heart: the scene. Where
    whole scenes are held out nothing is shared, and there is no control task.

    Args:
        known: features of the frames by name (`metadata_features`).
        frames: of the cell (`Features.frames`), N of them.
        of_frame: int [N] the episode of each.
        x: float32 [N, D] the features of the cell.
        scores: of the cell.
        design: as for the cell.

    Returns:
        One row a baseline: `baseline`, `features` (D), scores, the `difference` of the cell's accuracy to it with `_low` and
        `_high`, and a `note` that says why one has no scores.
    """
    bare = without_permutations(design)
    rows = []
    every = {"timestep": time_features(frames), **known, "scene": scene_features(frames)}
    for name, features in every.items():
        note = "not stored" if features is None else fault(features, frames)
        row: dict[str, object] = {"baseline": name, "features": 0 if features is None else features.shape[1]}
        if features is None or note is not None:
            rows.append(row | {"note": note})
            continue
        found = closed_form(features, of_frame, bare).scores
        rows.append(row | _scored(found, bare, scores.right - found.right))
    rows.append({"baseline": "control task", "features": x.shape[1]} | _control_task(x, of_frame, scores, bare))
    return pd.DataFrame(rows).assign(note=lambda table: table["note"].fillna(""))


def _scored(found: Scores, design: Design, difference: np.ndarray) -> dict[str, object]:
    row = score_row(found, design)
    over = design.means.difference(difference, design.config.confidence)
    return {
        **{column: row[column] for column in _SCORES}, "chance": design.chance,
        "difference": over.mean, "difference_low": over.low, "difference_high": over.high, "note": "",
    }  # fmt: skip


def _control_task(x: np.ndarray, of_frame: np.ndarray, scores: Scores, design: Design) -> dict[str, object]:
    scene = design.episodes.scene
    if design.config.split in ("scene", "task"):
        return {"note": f"none: no {design.unit} of the test part is fitted, and nothing can be learnt by heart"}
    if (scene < 0).any() or len(np.unique(scene)) < 2:
        return {"note": "none: fewer than two scenes are known"}
    found = [_random_labels(design, number) for number in range(CONTROL_TASKS)]
    tasks = [(task, closed_form(x, of_frame, task).scores) for task in found]
    right, beaten, cosine = (
        np.mean([getattr(own, name) for _, own in tasks], axis=0) for name in ("right", "beaten", "cosine")
    )
    mean = Scores(right, beaten, cosine, np.zeros(0), np.zeros(0))
    chance = float(np.mean([task.chance for task in found]))
    return _scored(mean, design, scores.right - mean.right) | {"chance": chance}


def _random_labels(design: Design, number: int) -> Design:
    """The design with a class at random for each scene, as many scenes a class as possible alike."""
    rng = np.random.default_rng([design.config.seed, 3, number])
    scenes, place = np.unique(design.episodes.scene, return_inverse=True)
    classes = min(len(design.embeddings), len(scenes))
    label = rng.permutation(np.arange(len(scenes)) % classes)[place]
    every = np.zeros((len(label), len(design.embeddings)), bool)
    every[:, :classes] = True
    splits = tuple(
        tuple(dataclasses.replace(split, candidates=every) for split in assignment) for assignment in design.assignments
    )
    means = Means(label[design.tested], design.means.units, design.means.inflation)
    episodes = dataclasses.replace(design.episodes, label=label)
    return dataclasses.replace(
        design, episodes=episodes, embeddings=np.eye(len(design.embeddings), dtype=np.float32), assignments=splits,
        labellings=label[None], means=means,
    )  # fmt: skip


def beaten_by(table: pd.DataFrame) -> tuple[Sequence[str], Sequence[str]]:
    """The baselines that a cell does better than (the interval of the difference is above 0), and the others."""
    scored = [row for row in table.to_dict("records") if not row["note"]]
    better = [str(row["baseline"]) for row in scored if row["difference_low"] > 0]
    return better, [str(row["baseline"]) for row in scored if not row["difference_low"] > 0]
