"""The trained linear probe: can a linear map read the instruction off these features? From features to tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent

from vlascope_analysis.data.features import Features
from vlascope_analysis.data.labels import InstructionLabels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.probes import Standardiser, train_probes
from vlascope_analysis.statistics.bootstrap import caution, intervals
from vlascope_analysis.statistics.evaluation import Design, score_row
from vlascope_analysis.statistics.splits import unit_name

TOGETHER = 512 << 20
"""Bytes of parameters, Adam's moments and best parameters to train at a time."""


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
        AnalysisError: `features` holds more than one layer or denoise step, there are too few episodes or instructions, or an
            option cannot be used.
    """
    training.check()
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
                evaluation.seed,
                lambda _, done, total, what=what: progress(what, done, total),
            )
            similarity = _cosines(maps.predict(scaled[split.test]), labels.embeddings)
            predicted[chunk, split.test] = _nearest(similarity, split.candidates)
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


def _cosines(predicted: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each prediction to each instruction: [..., E] and [C, E] of length 1 to float32 [..., C]."""
    length = np.linalg.norm(predicted, axis=-1, keepdims=True)
    return (predicted @ embeddings.T) / np.maximum(length, 1e-8)


def _nearest(similarity: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The candidate of greatest cosine: [..., C] and bool [C] to int [...]."""
    return np.argmax(np.where(candidates, similarity, -np.inf), axis=-1)


def _chunks(maps: int, nbytes: int) -> list[slice]:
    """The true labels alone, then permutations in groups that fit in memory."""
    size = max(1, TOGETHER // nbytes)
    return [slice(0, 1)] + [slice(start, min(start + size, maps)) for start in range(1, maps, size)]
