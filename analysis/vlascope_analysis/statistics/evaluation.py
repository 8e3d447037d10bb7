"""How any probe is tested: parts, shuffled labels and baselines before it is fitted, scores with their intervals after."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from vlascope_analysis.data.labels import InstructionLabels
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.statistics.baselines import chance, constant_cosine, majority, p_value, shuffle_labels
from vlascope_analysis.statistics.bootstrap import intervals
from vlascope_analysis.statistics.splits import Split, make_splits


@dataclasses.dataclass(frozen=True)
class Design:
    """Parts, labels and baselines of one evaluation; the same for every cell of a sweep."""

    splits: tuple[Split, ...]
    shuffled: np.ndarray
    test_units: np.ndarray
    test: np.ndarray
    facts: dict[str, object]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, frames: pd.DataFrame, labels: InstructionLabels, config: EvaluationConfig) -> Design:
        """Splits frames (`Features.frames`) and shuffles labels.

        `facts` are the columns that a table has whatever the probe answers: split, folds, frames, episodes, instructions,
        test_units, chance, majority, constant_cosine.

        Raises:
            AnalysisError: `config` cannot be used, or there are too few episodes or instructions.
        """
        config.check()
        episodes = frames["unit"].to_numpy(dtype=str)
        splits = tuple(make_splits(episodes, labels.index, len(labels), config))
        units = episodes if config.split == "episode" else labels.index.astype(str)
        test = np.concatenate([split.test for split in splits])
        here, scenes = len(frames.drop_duplicates(["run", "episode"])), len(np.unique(episodes))
        constant = [constant_cosine(labels.index, labels.embeddings, split.train, split.test) for split in splits]
        facts = {
            "split": config.split,
            "folds": len(splits),
            "frames": len(frames),
            "episodes": here,
            "instructions": len(labels),
            "test_frames": len(test),
            "test_units": len(np.unique(units[test])),
            "chance": chance(splits),
            "majority": majority(splits, labels.index),
            "constant_cosine": float(np.concatenate(constant).mean()),
        }
        warnings = []
        if here > scenes:
            warnings.append(
                f"{here} episodes count as {scenes}: those of one name that were told the same, in other runs or campaigns, "
                "are the same scene again"
            )
        if any(len(split.validation) == 0 for split in splits):
            warnings.append("no episode is left to validate on (two of each instruction): nothing decides when to stop")
        shuffled = shuffle_labels(labels.index, units, splits, config.permutations, config.seed)
        return cls(splits, shuffled, units[test], test, facts, tuple(warnings))


def score_row(right: np.ndarray, cosine: np.ndarray, design: Design, config: EvaluationConfig) -> pd.DataFrame:
    """Scores of some cells, one row each.

    Args:
        right: bool [cells, 1 + permutations, test frames] whether each was right; the true labels first.
        cosine: float [cells, ≥ 1, test frames].
    """
    options = {"samples": config.bootstrap_samples, "confidence": config.confidence, "seed": config.seed}
    accuracy = intervals(right[:, 0], design.test_units, bounded=True, **options)
    similarity = intervals(cosine[:, 0], design.test_units, **options)
    null = right[:, 1:].mean(axis=2)
    columns = {
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "cosine_similarity": similarity.mean,
        "cosine_similarity_low": similarity.low,
        "cosine_similarity_high": similarity.high,
        "shuffled_accuracy": null.mean(axis=1) if null.size else np.full(len(null), np.nan),
        "p_value": p_value(right[:, 0].mean(axis=1), null),
    }
    return pd.DataFrame(columns).assign(
        **design.facts, permutations=config.permutations, confidence=config.confidence, interval_unit=config.split
    )
