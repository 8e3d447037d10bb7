"""The trained linear probe: can a linear map read the label off these features? From features to a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent

from vlascope_analysis.analyses.controls import NO_CONTROL, against_control, baselines, without_permutations
from vlascope_analysis.data.features import Features, fault
from vlascope_analysis.data.labels import Labels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.probes import require_training
from vlascope_analysis.probes.closed_form import closed_form, crowded, time_tells
from vlascope_analysis.probes.ridge import score_answers
from vlascope_analysis.probes.standardise import Standardiser
from vlascope_analysis.results import Result
from vlascope_analysis.statistics.evaluation import Design, Scores, score_row
from vlascope_analysis.statistics.intervals import Means, balanced, caution
from vlascope_analysis.statistics.units import frame_weights

if TYPE_CHECKING:
    from vlascope_analysis.probes.linear import Part

TOGETHER = 512 << 20
"""Bytes of parameters, Adam's moments and best parameters to train at a time."""

CLOSED_FORM_PERMUTATIONS = 199
"""Permutations that the closed form beside a trained probe is compared with, at least: there they cost next to nothing."""


@dataclasses.dataclass(frozen=True)
class Controls:
    """What a probe is compared with, beside what follows from its own frames.

    Attributes:
        known: features of the frames without a hidden state, by name (`metadata_features`).
        beside: the same slice of the control run; None where there is none.
        name: of the control run's policy.
    """

    known: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    beside: Features | None = None
    name: str = ""


def probe(
    features: Features,
    labels: Labels,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    progress: Progress = silent,
    *,
    controls: Controls = Controls(),
) -> Result:
    """Trains and tests the probe on one layer and denoise step, and solves ridge regression beside it.

    Every test frame is answered by a map that saw no frame of its episode, nor of another of its scene (or initial state,
    whatever the split holds out whole). Accuracy is the share of frames whose predicted embedding has its greatest cosine with
    that of the true class, averaged within episodes, then within units, then within classes, then over them.

    Returns:
        Tables: `scores`, one row; `predictions`, one row a tested frame and assignment; `history`, one row an epoch, fold and
        assignment; `classes`, one row each; `baselines`, which are compared with ridge regression on the same features.

    Raises:
        AnalysisError: `features` holds more than one layer or denoise step, or cannot be scored; there are too few episodes or
            classes, or an option cannot be used.
    """
    training.check()
    require_training()
    if features.array.shape[:2] != (1, 1):
        raise AnalysisError("a probe is trained on one layer and one denoise step: name them, or use the sweep")
    x = features.array[0, 0]
    wrong = fault(x, features.frames)
    if wrong is not None:
        raise AnalysisError(
            f"the features are {wrong}: nothing can be read off them; --exclude-episodes leaves out episodes, --rollout-step, "
            "--layer and --component choose other features"
        )
    design = Design.of(features.frames, labels, evaluation)
    trained = _Trained.of(x, design, training, progress)
    scores = trained.scores(design)
    beside = dataclasses.replace(evaluation, permutations=max(CLOSED_FORM_PERMUTATIONS, evaluation.permutations))
    of_frame = design.episodes.of_frame
    compared = Design.of(features.frames, labels, beside)
    closed = closed_form(x, of_frame, compared).scores
    found = score_row(closed, compared)
    row = score_row(scores, design) | {
        f"closed_form_{name}": found[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "p_value")
    }
    row |= {"closed_form_permutations": beside.permutations, "epochs": float(np.mean(trained.epochs))}
    warnings = [*features.warnings, *labels.warnings, *design.warnings]
    if max(trained.epochs) == training.num_epochs and all(split.held.any() for split in design.assignments[0]):
        warnings.append("the last epoch was the best in a fold: more --num-epochs may score higher")
    # fitted on what the trained maps were fitted on, and no more
    alike = closed_form(x, of_frame, dataclasses.replace(design, labellings=design.labellings[:1]), refit=False)
    gap = design.means.difference(scores.right - alike.scores.right, evaluation.confidence)
    if gap.high < 0:
        reached = design.means.mean(alike.scores.right).mean()
        warnings.append(
            f"training reached {row['accuracy']:.3f} where ridge regression in closed form reaches {reached:.3f} with the "
            f"same episodes (difference {gap.low:.3f} to {gap.high:.3f}): the trained probe says less than there is; try "
            "more --num-epochs, another --learning-rate, or a greater --patience"
        )
    warnings += crowded(x, of_frame, design) + time_tells(features.frames, of_frame, design)
    warnings += caution(design.test_units, row["accuracy_low"], row["accuracy_high"], design.unit)
    row |= _control_scores(controls, features.frames, scores, design, training, progress)
    tables = {
        "scores": pd.DataFrame([row | design.facts(len(x))]),
        "baselines": baselines(controls.known, features.frames, of_frame, x, closed, compared),
        "predictions": trained.predictions(features.frames, design),
        "history": trained.history,
        "classes": _by_class(scores, labels, design),
    }
    return Result("probe", tables, ("predictions",), tuple(dict.fromkeys(warnings)))


def _control_scores(
    controls: Controls,
    frames: pd.DataFrame,
    scores: Scores,
    design: Design,
    training: TrainingConfig,
    progress: Progress,
) -> dict[str, Any]:
    """What the same probe reaches on the control run, trained in the same way with the true labels.

    Raises:
        AnalysisError: the control run's features hold nothing.
    """
    if controls.beside is None:
        return NO_CONTROL
    x = controls.beside.array[0, 0]
    wrong = fault(x, frames)
    if wrong is not None:
        raise AnalysisError(f"--control-run: its features are {wrong}: nothing can be read off them")
    bare = without_permutations(design)
    return against_control(scores, _Trained.of(x, bare, training, progress).scores(bare), design, controls.name)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What trained maps answered.

    Attributes:
        null_right, null_beaten: float32 [R, N] with the labels of each labelling, in the first assignment.
        predicted: int [assignments, N] the nearest class, with the true labels.
        right, beaten, cosine: float32 [assignments, N], with the true labels.
        fold: int [assignments, N]; -1 for frames that are not tested.
        epochs: the best epoch of each fold and assignment.
        history: losses by epoch.
    """

    null_right: np.ndarray
    null_beaten: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    beaten: np.ndarray
    cosine: np.ndarray
    fold: np.ndarray
    epochs: list[int]
    history: pd.DataFrame

    @classmethod
    def of(cls, x: np.ndarray, design: Design, training: TrainingConfig, progress: Progress) -> _Trained:
        from vlascope_analysis.probes.linear import train_probes

        A, R, N = len(design.assignments), len(design.labellings), len(x)
        null_right, null_beaten = np.zeros((2, R, N), np.float32)
        right, beaten, cosine = np.zeros((3, A, N), np.float32)
        predicted, fold = np.zeros((A, N), np.int64), np.full((A, N), -1)
        of_frame, histories, epochs = design.episodes.of_frame, [], []
        chunks = _chunks(R, 4 * 4 * x.shape[1] * design.embeddings.shape[1])
        for number, splits in enumerate(design.assignments):
            for k, split in enumerate(splits):
                fitted = split.fit[of_frame]
                scaled = Standardiser.fit(x[fitted], design.frame_weights[fitted])(x)
                test = np.flatnonzero(split.test[of_frame])
                for chunk in chunks if number == 0 else chunks[:1]:
                    labels = design.labellings[chunk]
                    kind = "true labels" if chunk.start == 0 else "permuted labels"
                    what = f"{kind}, assignment {number + 1} of {A}, fold {k + 1} of {len(splits)}"
                    maps = train_probes(
                        _part(scaled, design, split.fit, labels),
                        _part(scaled, design, split.held, labels),
                        design.embeddings,
                        training,
                        design.config.seed,
                        lambda _, done, total, what=what: progress(what, done, total),
                    )
                    cosines = _cosines(maps.predict(scaled[test]), design.embeddings)
                    own = labels[:, of_frame[test]]
                    scored = score_answers(cosines, own, split.candidates[of_frame[test]])
                    if number == 0:
                        null_right[chunk, test], null_beaten[chunk, test] = scored[:2]
                    if chunk.start == 0:
                        right[number, test], beaten[number, test], predicted[number, test] = (
                            part[0] for part in scored
                        )
                        cosine[number, test] = np.take_along_axis(cosines[0], own[0, :, None], 1)[:, 0]
                        histories.append(maps.history.assign(assignment=number, fold=k))
                        epochs.append(int(maps.epochs[0]))
                fold[number, test] = k
        history = pd.concat(histories, ignore_index=True)
        return cls(null_right, null_beaten, predicted, right, beaten, cosine, fold, epochs, history)

    def scores(self, design: Design) -> Scores:
        """The answers of each episode."""
        of_frame, U = design.episodes.of_frame, len(design.episodes)
        weights = frame_weights(of_frame)

        def by_episode(values: np.ndarray) -> np.ndarray:
            return np.stack([np.bincount(of_frame, row * weights, minlength=U) for row in values])

        right, beaten, cosine = (by_episode(v)[:, design.tested] for v in (self.right, self.beaten, self.cosine))
        null = (design.null_means(by_episode(v)) for v in (self.null_right, self.null_beaten))
        return Scores(right, beaten, cosine, *null)

    def predictions(self, frames: pd.DataFrame, design: Design) -> pd.DataFrame:
        """One row a tested frame and assignment."""
        columns = ["run", "campaign", "episode", "suite", "task_id", "episode_index", "timestep", "success"]
        known = frames.loc[:, columns]
        of_frame = design.episodes.of_frame
        label = design.episodes.label[of_frame]
        found = [
            known.assign(
                assignment=number, fold=self.fold[number], label=label, predicted=self.predicted[number],
                correct=self.right[number] == 1, cosine_similarity=self.cosine[number],
                weight=design.frame_weights,
            ).loc[self.fold[number] >= 0]
            for number in range(len(self.fold))
        ]  # fmt: skip
        return pd.concat(found, ignore_index=True)


def _part(x: np.ndarray, design: Design, episodes: np.ndarray, labels: np.ndarray) -> Part:
    """The frames of some episodes (bool [U]); units count alike, and so do classes, in each labelling [R, U]."""
    from vlascope_analysis.probes.linear import Part

    of_frame = design.episodes.of_frame
    frames = np.flatnonzero(episodes[of_frame])
    weights = np.zeros(labels.shape)
    weights[:, episodes] = balanced(labels[:, episodes], design.weights[episodes]) if episodes.any() else 0
    within = frame_weights(of_frame)[frames]
    return Part(x[frames], labels[:, of_frame[frames]], within * weights[:, of_frame[frames]])


def _by_class(scores: Scores, labels: Labels, design: Design) -> pd.DataFrame:
    """How well each class was told from the others."""
    means, rows = design.means, []
    for number in range(len(labels)):
        own = means.label == number
        row: dict[str, object] = {"test_episodes": int(own.sum()), "accuracy": np.nan}
        row |= {"accuracy_low": np.nan, "accuracy_high": np.nan}
        if own.any():
            pools = None if means.pools is None else np.unique(means.pools[own], return_inverse=True)[1]
            found = Means(means.label[own], means.units[own], means.inflation, pools).share(
                scores.right[:, own], design.config.confidence
            )
            row |= {"accuracy": found.mean, "accuracy_low": found.low, "accuracy_high": found.high}
        rows.append(row)
    return pd.concat([labels.table(), pd.DataFrame(rows)], axis=1)


def _cosines(predicted: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each prediction to each class: [..., E] and [C, E] of length 1 to float32 [..., C]."""
    length = np.linalg.norm(predicted, axis=-1, keepdims=True)
    return (predicted @ embeddings.T) / np.maximum(length, 1e-8)


def _chunks(maps: int, nbytes: int) -> list[slice]:
    """The true labels alone, then permutations in groups that fit in memory."""
    size = max(1, TOGETHER // nbytes)
    return [slice(0, 1)] + [slice(start, min(start + size, maps)) for start in range(1, maps, size)]
