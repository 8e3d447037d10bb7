"""The trained linear probe: can a linear map read the instruction off these features? From features to tables.

Knows nothing of stores, files or figures.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from vlascope_analysis.baselines import chance, majority, p_value, shuffle_labels
from vlascope_analysis.bootstrap import caution, intervals
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.features import Features
from vlascope_analysis.labels import InstructionLabels
from vlascope_analysis.probes import Standardiser, TrainingConfig, train_probes
from vlascope_analysis.progress import Progress, silent
from vlascope_analysis.scores import constant_cosine, cosines, nearest
from vlascope_analysis.splits import Split, SplitBy, default_folds, make_splits, unit_name

TOGETHER = 512 << 20
"""Bytes of parameters, Adam's moments and best parameters to train at a time."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How any probe is tested.

    Attributes:
        split: what a split holds out whole: episodes of every instruction, or (`task`) instructions.
        folds: every unit is tested once where above 1; 1 holds one part out; by the number of episodes unless told.
        test_fraction: units held out where there is one fold.
        validation_fraction: of the other units, those that choose when to stop or how strong the penalty is.
        permutations: shuffled labellings to compare with.
        bootstrap_samples: draws of episodes behind each interval.
        confidence: coverage of the intervals.
        seed: of splits, permutations and bootstrap.
    """

    split: SplitBy = "episode"
    folds: int | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.2
    permutations: int = 20
    bootstrap_samples: int = 2000
    confidence: float = 0.95
    seed: int = 42

    def __post_init__(self):
        if self.permutations < 0:
            raise AnalysisError(f"--permutations {self.permutations}: expected 0 or more")
        if self.bootstrap_samples < 100:
            raise AnalysisError(f"--bootstrap-samples {self.bootstrap_samples}: expected at least 100")
        if not 0 < self.confidence < 1:
            raise AnalysisError(f"--confidence {self.confidence}: expected a share between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Design:
    """Parts, labels and baselines of one evaluation; the same for every cell of a sweep."""

    splits: tuple[Split, ...]
    shuffled: np.ndarray
    test_units: np.ndarray
    test: np.ndarray
    facts: dict
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, frames: pd.DataFrame, labels: InstructionLabels, config: EvaluationConfig) -> Design:
        """Splits frames (`Features.frames`) and shuffles labels.

        `facts` are the columns that a table has whatever the probe answers: split, folds, frames, episodes, instructions,
        test_units, chance, majority, constant_cosine.

        Raises:
            AnalysisError: there are too few episodes or instructions.
        """
        episodes = frames["unit"].to_numpy(dtype=str)
        folds = default_folds(episodes) if config.folds is None else config.folds
        splits = tuple(
            make_splits(
                episodes, labels.index, len(labels), by=config.split, folds=folds, seed=config.seed,
                test_fraction=config.test_fraction, validation_fraction=config.validation_fraction,
            )
        )  # fmt: skip
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


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        table: one row; docs/probing.md lists the columns.
        predictions: one row a tested frame: run, campaign, episode, task, timestep, fold, cosine, and as numbers of
            `instructions` `label` (what was told) and `predicted`.
        history: one row an epoch and fold: train_loss, validation_loss.
        instructions: one row each: number, instruction, task_id (of the task whose own words it is, if any), test_frames,
            test_episodes, accuracy and its interval.
        warnings: what the reader should know before believing the number.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame
    instructions: pd.DataFrame
    warnings: tuple[str, ...]


def probe(
    features: Features,
    labels: InstructionLabels,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    progress: Progress = silent,
) -> ProbeResult:
    """Trains and tests the probe on one layer and denoise step.

    Every test frame is answered by a map that saw no frame of its episode. Accuracy is the share of test frames whose predicted
    embedding has its greatest cosine with the embedding of the true instruction.

    Raises:
        AnalysisError: `features` holds more than one layer or denoise step, or there are too few episodes or instructions.
    """
    if features.array.shape[:2] != (1, 1):
        raise AnalysisError("a probe is trained on one layer and one denoise step: name them, or use the sweep")
    x = features.array[0, 0]
    design = Design.of(features.frames, labels, evaluation)
    labellings = np.concatenate([labels.index[None], design.shuffled])
    predicted = np.zeros((len(labellings), len(x)), np.int64)
    cosine = np.zeros(len(x), np.float32)
    fold_of = np.zeros(len(x), np.int64)
    histories, epochs = [], []
    chunks = _chunks(len(labellings), 4 * 4 * x.shape[1] * labels.embeddings.shape[1])
    for fold, split in enumerate(design.splits):
        scaled = Standardiser.fit(x[split.train])(x)
        for number, chunk in enumerate(chunks):
            rows = labellings[chunk]
            what = f"fold {fold + 1} of {len(design.splits)}, " + ("true labels" if number == 0 else "shuffled labels")
            maps = train_probes(
                (scaled[split.train], rows[:, split.train]),
                (scaled[split.validation], rows[:, split.validation]),
                labels.embeddings,
                training,
                lambda _, done, total, what=what: progress(what, done, total),
            )
            similarity = cosines(maps.predict(scaled[split.test]), labels.embeddings)
            predicted[chunk, split.test] = nearest(similarity, split.candidates)
            if number == 0:
                cosine[split.test] = similarity[0, np.arange(len(split.test)), labels.index[split.test]]
                histories.append(maps.history.assign(fold=fold))
                epochs.append(int(maps.epochs[0]))
        fold_of[split.test] = fold
    right = predicted == labellings
    test = design.test
    row = score_row(right[None, :, test], cosine[None, None, test], design, evaluation).iloc[0].to_dict()
    row |= {"epochs": float(np.mean(epochs))}
    warnings = (*features.warnings, *labels.warnings, *design.warnings)
    if any(epoch == training.num_epochs for epoch in epochs) and all(len(split.validation) for split in design.splits):
        warnings += ("the last epoch was the best: more --num-epochs may score higher",)
    warnings += tuple(
        caution(row["test_units"], row["accuracy_low"], row["accuracy_high"], unit_name(evaluation.split))
    )
    columns = ["run", "campaign", "episode", "suite", "task_id", "episode_index", "timestep", "success"]
    table = features.frames[columns].assign(
        fold=fold_of, label=labels.index, predicted=predicted[0], correct=right[0], cosine_similarity=cosine
    )
    answers = table.iloc[np.sort(test)].reset_index(drop=True)
    told = _by_instruction(answers, features.frames["unit"].to_numpy(dtype=str)[np.sort(test)], labels, evaluation)
    return ProbeResult(pd.DataFrame([row]), answers, pd.concat(histories, ignore_index=True), told, warnings)


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


def _by_instruction(
    answers: pd.DataFrame, units: np.ndarray, labels: InstructionLabels, config: EvaluationConfig
) -> pd.DataFrame:
    rows = []
    for number, (instruction, task_id) in enumerate(zip(labels.instructions, labels.task_ids, strict=True)):
        own = answers["label"].to_numpy() == number
        row = {"number": number, "instruction": instruction, "task_id": task_id, "test_frames": int(own.sum())}
        row["test_episodes"] = len(np.unique(units[own]))
        if own.any():
            found = intervals(
                answers["correct"].to_numpy()[own], units[own], samples=config.bootstrap_samples,
                confidence=config.confidence, seed=config.seed, bounded=True,
            )  # fmt: skip
            row |= {"accuracy": float(found.mean), "accuracy_low": float(found.low), "accuracy_high": float(found.high)}
        rows.append(row)
    return pd.DataFrame(rows).astype({"task_id": "Int64"})


def _chunks(maps: int, nbytes: int) -> list[slice]:
    """The true labels alone, then permutations in groups that fit in memory."""
    size = max(1, TOGETHER // nbytes)
    return [slice(0, 1)] + [slice(start, min(start + size, maps)) for start in range(1, maps, size)]
