"""How any probe is tested: parts, permutations and baselines before it is fitted, scores with intervals and p-values after.

The procedure was chosen by simulation, and `benchmarks/probe_statistics.py` measures whether it keeps its promises.
docs/probing.md explains it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from vlascope_base.text import counted

from vlascope_analysis.data.labels import InstructionLabels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.statistics.intervals import ASSIGNMENTS, INFLATION, Means, balanced
from vlascope_analysis.statistics.permutation import LEVEL, arrangements, p_value, permuted_labels
from vlascope_analysis.statistics.splits import Split, make_splits, units_of
from vlascope_analysis.statistics.units import Episodes, frame_weights, unit_weights

FEW = 4
"""Units of an instruction below which a warning says how much they count."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What maps answered for each tested episode (T of them), in one cell.

    Attributes:
        right: float32 [assignments, T] share of an episode's frames whose nearest instruction is the true one.
        beaten: float32 [assignments, T] share of the other candidates that the true instruction is nearer than.
        cosine: float32 [assignments, T] to the true instruction, mean over frames.
        null_right, null_beaten: float64 [R - 1] means over episodes with permuted labels, in the first assignment.
    """

    right: np.ndarray
    beaten: np.ndarray
    cosine: np.ndarray
    null_right: np.ndarray
    null_beaten: np.ndarray


@dataclasses.dataclass(frozen=True)
class Design:
    """Parts, labels and baselines of one evaluation; the same for every cell of a sweep.

    Attributes:
        episodes: what is split, permuted and drawn.
        embeddings: float32 [C, E] of length 1.
        config: how.
        unit: what is held out whole and counts as independent: `episode`, `scene` or `instruction`.
        assignments: random assignments of episodes to folds; the first serves the test, all of them the scores.
        labellings: int [R, U] the true labels, then permuted ones.
        weights: float64 [U] how much each episode counts, whatever it was told: scenes count alike.
        tested: int [T] the episodes that are tested; all of them where there are folds.
        means: how tested episodes are averaged.
        warnings: what the reader should know.
    """

    episodes: Episodes
    embeddings: np.ndarray
    config: EvaluationConfig
    unit: str
    assignments: tuple[tuple[Split, ...], ...]
    labellings: np.ndarray
    weights: np.ndarray
    tested: np.ndarray
    means: Means
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, frames: pd.DataFrame, labels: InstructionLabels, config: EvaluationConfig) -> Design:
        """Splits the episodes of frames (`Features.frames`) and permutes their labels.

        Raises:
            AnalysisError: `config` cannot be used, or there are too few episodes, scenes or instructions.
        """
        if config.split == "task" and np.abs(np.triu(labels.embeddings @ labels.embeddings.T, 1)).max(initial=0) < 1e-6:
            raise AnalysisError(
                "--split task: the labels have nothing in common (one-hot), so that no map reaches an instruction that it "
                "never saw: use an --encoder that knows words"
            )
        episodes = Episodes.of(frames, labels.index)
        units, unit = units_of(episodes, config.split)
        splits = make_splits(episodes, len(labels), config)
        several = len(splits) > 1
        more = (tuple(make_splits(episodes, len(labels), config, n)) for n in range(1, ASSIGNMENTS if several else 1))
        labellings = permuted_labels(episodes, units, splits, config.permutations, config.seed)
        tested = np.flatnonzero(np.any([split.test for split in splits], axis=0))
        # one held-out part tests one map, whose answers to other episodes are independent
        means = Means(episodes.label[tested], units[tested], INFLATION if several else 1.0)
        return cls(
            episodes, labels.embeddings, config, unit, (tuple(splits), *more), labellings, unit_weights(units), tested, means,
            _warnings(episodes, units, unit, splits, config),
        )  # fmt: skip

    @functools.cached_property
    def frame_weights(self) -> np.ndarray:
        """How much each frame counts, whatever was told, float64 [N]: frames of an episode share its weight."""
        return frame_weights(self.episodes.of_frame) * self.weights[self.episodes.of_frame]

    @functools.cached_property
    def test_units(self) -> int:
        """How many independent units were tested."""
        return len(np.unique(self.means.units))

    @functools.cached_property
    def chance(self) -> float:
        """The accuracy of any constant answer, and of guessing: labels count alike, so that there is no better constant."""
        splits = self.assignments[0]
        return float(np.average([1 / s.candidates.sum() for s in splits], weights=[s.candidates.sum() for s in splits]))

    @functools.cached_property
    def constant_cosine(self) -> float:
        """Cosine of the mean fitted label to the tested ones: what a probe reaches that knows nothing."""
        found = np.zeros(len(self.episodes))
        for split in self.assignments[0]:
            mean = self.embeddings[np.unique(self.episodes.label[split.fit])].mean(axis=0)
            cosines = self.embeddings @ (mean / max(float(np.linalg.norm(mean)), 1e-8))
            found[split.test] = cosines[self.episodes.label[split.test]]
        return float(self.means.mean(found[self.tested]))

    def facts(self, frames: int) -> dict[str, object]:
        """The columns that a table has whatever the probe answers, of a cell with so many frames."""
        return {
            "chance": self.chance,
            "constant_cosine": self.constant_cosine,
            "frames": frames,
            "episodes": len(self.episodes),
            "scenes": self.episodes.scenes,
            "instructions": len(self.embeddings),
            "test_units": self.test_units,
            "interval_unit": self.unit,
            "split": self.config.split,
            "folds": len(self.assignments[0]),
            "assignments": len(self.assignments),
            "permutations": self.config.permutations,
            "confidence": self.config.confidence,
        }

    def null_means(self, values: np.ndarray) -> np.ndarray:
        """Means over tested episodes with permuted labels: [R, U] to float64 [R - 1]."""
        return (values[1:, self.tested] * self._null_weights).sum(axis=1)

    @functools.cached_property
    def _null_weights(self) -> np.ndarray:
        """The weights of tested episodes with each permuted labelling, float64 [R - 1, T]: where scenes or instructions
        move whole, they take unequal numbers of episodes along.
        """
        return balanced(self.labellings[1:, self.tested], unit_weights(self.means.units))


def score_row(scores: Scores, design: Design) -> dict[str, float]:
    """The columns of one cell that say how well it was read, with intervals and the p-value of this cell alone."""
    means, confidence = design.means, design.config.confidence
    accuracy, rank = means.share(scores.right, confidence), means.share(scores.beaten, confidence)
    cosine = means.any(scores.cosine, confidence)
    tested = np.asarray(means.mean(scores.beaten[0]))  # the first assignment alone is compared with permutations
    return {
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "rank_accuracy": rank.mean,
        "rank_accuracy_low": rank.low,
        "rank_accuracy_high": rank.high,
        "cosine_similarity": cosine.mean,
        "cosine_similarity_low": cosine.low,
        "cosine_similarity_high": cosine.high,
        "shuffled_accuracy": float(scores.null_right.mean()) if len(scores.null_right) else np.nan,
        "p_value": float(p_value(tested, scores.null_beaten)),
    }


def readable(cell: Mapping[Hashable, Any] | Mapping[str, Any], p_value: str) -> bool:
    """Whether a cell is told from chance: by the named p-value where labels were permuted, else by its interval.

    Args:
        cell: a row of scores, by column.
        p_value: `p_value` of a cell alone, `p_value_best` among all cells of a sweep.
    """
    if cell["permutations"]:
        return bool(cell[p_value] <= LEVEL)
    return bool(cell["accuracy_low"] > cell["chance"])


_SCORES = ("accuracy", "rank_accuracy", "cosine_similarity")
_COLUMNS = (*(score + end for score in _SCORES for end in ("", "_low", "_high")), "shuffled_accuracy", "p_value")

UNSCORED = dict.fromkeys(_COLUMNS, np.nan)
"""The columns of a cell that could not be scored."""


def _warnings(
    episodes: Episodes, units: np.ndarray, unit: str, splits: list[Split], config: EvaluationConfig
) -> tuple[str, ...]:
    found = []
    if unit == "scene":
        found.append(
            f"{len(episodes)} episodes begin from {episodes.scenes} scenes: those of one scene look alike, so that scenes "
            "are held out whole, and count as the independent units"
        )
    if config.split == "episode" and episodes.scenes < len(episodes):
        found.append(
            f"--split episode: {len(episodes)} episodes begin from {episodes.scenes} scenes, and a probe may read scenes: the "
            "p value and the interval do not account for it"
        )
    told = np.unique(np.stack([episodes.label, units]), axis=1)[0]
    rare = np.count_nonzero(np.bincount(told) < FEW) if unit != "instruction" else 0
    if rare:
        found.append(
            f"{rare} instruction{'s were' if rare > 1 else ' was'} told in fewer than {FEW} {unit}s: they count as much as the "
            "others, so that few episodes decide much of every score"
        )
    if not all(split.held.any() for split in splits):
        found.append("too few episodes to hold some for choosing the penalty, or when to stop: nothing chooses")
    reached = arrangements(episodes, units, splits)
    if config.permutations and reached < 100:
        found.append(
            f"the design leaves only {counted(round(reached), 'arrangement')} of the labels: no p value below "
            f"{1 / reached:.2g} can be shown"
        )
    return tuple(found)
