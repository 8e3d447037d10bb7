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
from vlascope_base.text import counted, listed

from vlascope_analysis.data.labels import Labels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.statistics.crossing import Told
from vlascope_analysis.statistics.intervals import ASSIGNMENTS, INFLATION, Means, balanced
from vlascope_analysis.statistics.permutation import LEVEL, Freedom, arrangements, p_value, permuted_labels
from vlascope_analysis.statistics.splits import Split, chosen_split, crossed, make_splits, scenes_tested, units_of
from vlascope_analysis.statistics.units import Episodes, frame_weights, unit_weights

FEW = 4
"""Units of a class below which a warning says how much they count."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What maps answered for each tested episode (T of them), in one cell.

    Attributes:
        right: float32 [assignments, T] share of an episode's frames whose nearest class is the true one.
        beaten: float32 [assignments, T] share of the other candidates that the true class is nearer than.
        cosine: float32 [assignments, T] to the true class, mean over frames.
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
        config: how; its `split` is the one that was taken.
        unit: what is held out whole and counts as independent: `episode`, `initial state`, `scene` or `instruction`.
        assignments: random assignments of episodes to folds; the first serves the test, all of them the scores.
        labellings: int [R, U] the true labels, then permuted ones.
        weights: float64 [U] how much each episode counts, whatever its class: units count alike.
        tested: int [T] the episodes that are tested.
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
    def of(cls, frames: pd.DataFrame, labels: Labels, config: EvaluationConfig) -> Design:
        """Splits the episodes of frames (`Features.frames`) and permutes their labels.

        Raises:
            AnalysisError: `config` cannot be used, or there are too few episodes, scenes or classes.
        """
        if config.split == "task" and np.abs(np.triu(labels.embeddings @ labels.embeddings.T, 1)).max(initial=0) < 1e-6:
            raise AnalysisError(
                "--split task: the labels have nothing in common (one-hot), so that no map reaches one that it never saw: "
                "predict an instruction, with an --encoder that knows words"
            )
        config.check()
        episodes = Episodes.of(frames, labels)
        by = chosen_split(episodes, config)
        config = dataclasses.replace(config, split=by)
        units, unit = units_of(episodes, by)
        splits = make_splits(episodes, len(labels), config)
        several = len(splits) > 1
        more = (tuple(make_splits(episodes, len(labels), config, n)) for n in range(1, ASSIGNMENTS if several else 1))
        pools = _pools(episodes, config)
        free = Freedom.of(episodes, episodes.init_state if unit == "scene" else units, splits, pools)
        labellings = permuted_labels(episodes, free, config.permutations, config.seed)
        tested = np.flatnonzero(np.any([split.test for split in splits], axis=0))
        own = None if pools is None else np.unique(pools[tested], return_inverse=True)[1]
        # one held-out part tests one map, whose answers to other episodes are independent
        means = Means(episodes.label[tested], units[tested], INFLATION if several else 1.0, own)
        warnings = _warnings(episodes, units, unit, splits, config, arrangements(episodes, free))
        warnings += _not_tested(episodes, labels, config)
        return cls(
            episodes, labels.embeddings, config, unit, (tuple(splits), *more), labellings, unit_weights(units), tested, means,
            tuple(warnings),
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
        """The accuracy of any constant answer, and of guessing: classes count alike, so that there is no better constant."""
        candidates = np.ones(len(self.episodes))
        for split in self.assignments[0]:
            candidates[split.test] = split.candidates[split.test].sum(axis=1)
        return float(self.means.mean(1 / candidates[self.tested]))

    @functools.cached_property
    def told(self) -> Told:
        """What of the label the scene and the initial state tell, without a look at any state."""
        crossed = self.means.pools is not None
        return Told.of(self.episodes, self.tested, self.means.weights, crossed, self.config.seed)

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
            "scenes": len(np.unique(self.episodes.scene[self.episodes.scene >= 0])),
            "init_states": self.episodes.init_states,
            "label_name": self.episodes.question.label,
            "classes": len(self.embeddings),
            "crossed": self.told.crossed,
            "scene_accuracy": self.told.scene,
            "scene_at_random": self.told.scene_at_random,
            "scene_p_value": self.told.scene_p,
            "init_state_accuracy": self.told.init_state,
            "init_state_p_value": self.told.init_state_p,
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
        """The weights of tested episodes with each permuted labelling, float64 [R - 1, T]: where scenes or classes move whole,
        they take unequal numbers of episodes along.
        """
        return balanced(self.labellings[1:, self.tested], unit_weights(self.means.units), self.means.pools)


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


def _pools(episodes: Episodes, config: EvaluationConfig) -> np.ndarray | None:
    """The scene of each episode whose answer is asked for among the classes of its scene, int [U]; -1 for those that are not
    tested. None where an answer may be any class.
    """
    if config.split == "scene":
        return np.where(scenes_tested(episodes, config)[0], episodes.scene, -1)
    return episodes.scene if config.split != "task" and crossed(episodes) else None


def _not_tested(episodes: Episodes, labels: Labels, config: EvaluationConfig) -> list[str]:
    """Which scenes and classes are fitted on and not tested, where whole scenes are held out."""
    if config.split != "scene":
        return []
    tested, classes = scenes_tested(episodes, config)
    question, found = labels.question, []
    if rare := [labels.names[number] for number in np.flatnonzero(~classes)]:
        found.append(
            f"{question.several} of too few scenes to be fitted on whichever scenes are held out, which are not tested: "
            f"{listed(rare)}"
        )
    if alone := len(set(episodes.scene.tolist()) - set(episodes.scene[tested].tolist())):
        found.append(
            f"{counted(alone, 'scene')} with only one of the {question.several} that can be tested: not tested"
        )
    return found


def _warnings(
    episodes: Episodes, units: np.ndarray, unit: str, splits: list[Split], config: EvaluationConfig, reached: float
) -> list[str]:
    question, found = episodes.question, []
    if unit in ("initial state", "scene"):
        where = f"{'begin from' if unit == 'initial state' else 'take place in'} {len(np.unique(units))} {unit}s"
        found.append(
            f"{len(episodes)} episodes {where}: those of one {unit} look alike, so that {unit}s are held out whole, and count "
            "as the independent units"
        )
    if config.split == "episode" and episodes.init_states < len(episodes):
        found.append(
            f"--split episode: {len(episodes)} episodes begin from {episodes.init_states} initial states, and a probe may read "
            "those: the p value and the interval do not account for it"
        )
    if config.split == "init_state" and crossed(episodes) and len(np.unique(episodes.scene)) > 1:
        starts = len(np.unique(np.stack([episodes.init_state, episodes.label]), axis=1)[0])
        if starts == episodes.init_states:
            found.append(
                f"--split init_state: each initial state has one {question.one}, and what is held out is rarer in the rest of "
                "its scene: features that know the scene score below chance; --split scene, where scenes are enough, does "
                "not suffer from it"
            )
    told = np.unique(np.stack([episodes.label, units]), axis=1)[0]
    rare = int(np.count_nonzero(np.bincount(told) < FEW)) if unit != "instruction" else 0
    if rare:
        found.append(
            f"{counted(rare, question.one, question.several)} occur{'s' * (rare == 1)} in fewer than {FEW} {unit}s: they count "
            "as much as the others, so that few episodes decide much of every score"
        )
    if not all(split.held.any() for split in splits):
        found.append("too few episodes to hold some for choosing the penalty, or when to stop: nothing chooses")
    if config.permutations and reached < 100:
        found.append(
            f"the design leaves only {counted(round(reached), 'arrangement')} of the labels: no p value below "
            f"{1 / reached:.2g} can be shown"
        )
    return found
