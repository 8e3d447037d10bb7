"""The sweep: a closed-form ridge probe for every expert, layer and denoise step. From a store to a table.

Features come layer by layer, so that memory holds a block of layers and never a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent
from vlascope_latents import FLOW_COMPONENTS
from vlascope_latents.store import LatentStore

from vlascope_analysis.data.episodes import Numbered
from vlascope_analysis.data.features import Features, Slice, captured_axes, load_features, select_frames
from vlascope_analysis.data.labels import InstructionLabels, instruction_labels
from vlascope_analysis.options import EvaluationConfig, Expert, FeatureOptions
from vlascope_analysis.probes import ridge_cells
from vlascope_analysis.statistics.baselines import p_value
from vlascope_analysis.statistics.bootstrap import caution
from vlascope_analysis.statistics.evaluation import Design, score_row
from vlascope_analysis.statistics.splits import unit_name

BLOCK_BYTES = 1 << 30
"""Features to hold at a time."""


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        table: one row a cell: expert, component, layer, denoise_step (missing for the vlm), its scores, and `p_value_best`:
            how often the best cell of the whole sweep does as well with shuffled labels.
        labels: what was told.
        warnings: what the reader should know before believing the numbers.
    """

    table: pd.DataFrame
    labels: InstructionLabels
    warnings: tuple[str, ...]


def sweep(
    store: LatentStore,
    episodes: Sequence[Numbered],
    experts: Sequence[Expert],
    what: FeatureOptions,
    evaluation: EvaluationConfig,
    encode: Callable[[Sequence[str]], np.ndarray],
    progress: Progress = silent,
) -> SweepResult:
    """Probes every captured layer and denoise step of some experts.

    Splits, shuffled labels and bootstrap draws are the same for every cell, so that cells differ by their features alone.

    Args:
        store: where the features are.
        episodes: whose.
        experts: whose states; one at least.
        what: which frames, which component, how it is pooled.
        evaluation: how to test.
        encode: texts to float [texts, E].
        progress: called after every batch that was read.

    Raises:
        AnalysisError, NotCapturedError: as for features and splits; lists what there is.
    """
    evaluation.check()
    rows, nulls, warnings = [], [], []
    labels = design = None
    for expert in experts:
        cells_of = Slice(expert, what.component, pool=what.pool)
        for features in _blocks(store, episodes, cells_of, what.timesteps, progress):
            if labels is None or design is None:
                labels = instruction_labels(features.frames, encode)
                design = Design.of(features.frames, labels, evaluation)
                warnings += [*labels.warnings, *design.warnings]
            warnings += features.warnings
            right, cosine, penalty = _answers(features, labels, design)
            scores = score_row(right, cosine, design, evaluation)
            cells = [(step, layer) for step in features.denoise_steps for layer in features.layers]
            scores.insert(0, "expert", expert)
            scores.insert(1, "component", what.component)
            scores.insert(2, "layer", pd.array([layer for _, layer in cells], dtype="Int64"))
            scores.insert(3, "denoise_step", pd.array([step for step, _ in cells], dtype="Int64"))
            rows.append(scores.assign(penalty=penalty))
            nulls.append(right[:, 1:].mean(axis=2))
            del features
    if labels is None:
        raise ValueError("a sweep needs at least one expert")
    table = pd.concat(rows, ignore_index=True)
    # the null of the best cell: for each shuffling, the best that any cell does (Westfall & Young 1993)
    table["p_value_best"] = p_value(table["accuracy"].to_numpy(), np.concatenate(nulls).max(axis=0))
    best = table.iloc[int(table["accuracy"].to_numpy().argmax())]
    warnings += caution(
        int(best["test_units"]), best["accuracy_low"], best["accuracy_high"], unit_name(evaluation.split)
    )
    return SweepResult(table, labels, tuple(dict.fromkeys(warnings)))


def captured_experts(store: LatentStore, episodes: Sequence[Numbered], component: str) -> list[Expert]:
    """The experts that the first episode holds a component of; `text_only` where the prompt's tokens are among them."""
    tensors = episodes[0].episode.tensors()
    found: list[Expert] = []
    vlm = tensors.get(f"vlm/{component}")
    if vlm is not None:
        found.append("vlm")
        names = [span if isinstance(span, str) else span["name"] for span in vlm.attributes.get("spans", [])]
        if "text" in names:
            found.append("text_only")
    if f"action/{component}" in tensors:
        found.append("action")
    if not found:
        captured_axes(store, episodes, "vlm", component)  # raises, with what there is
    return found


def _blocks(
    store: LatentStore, episodes: Sequence[Numbered], what: Slice, timesteps: Sequence[int] | None, progress: Progress
) -> Iterator[Features]:
    """Features of a few layers at a time."""
    if what.component in FLOW_COMPONENTS:
        yield load_features(store, episodes, what, timesteps, progress)
        return
    layers = captured_axes(store, episodes, what.stored_expert, what.component)["layer"]
    # of one episode: the metadata of all of them is read once more for each block
    one, _ = select_frames(store, episodes[:1], dataclasses.replace(what, layers=(layers[0],)), None)
    frames = len(one) * len(episodes) if timesteps is None else len(timesteps) * len(episodes)
    steps = one.shape[1] if "denoise_step" in one.dims else 1
    width = one.shape[-1] if one.dims[-1].endswith("feature") else 1
    size = max(1, BLOCK_BYTES // (4 * max(1, frames) * steps * width))
    for start in range(0, len(layers), size):
        block = dataclasses.replace(what, layers=tuple(layers[start : start + size]))
        yield load_features(store, episodes, block, timesteps, progress)


def _answers(
    features: Features, labels: InstructionLabels, design: Design
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether right [cells, R, test], cosine of the true labels [cells, 1, test], penalty (mean of its logarithm) [cells]."""
    Q, L, N, D = features.array.shape
    cells = features.array.reshape(Q * L, N, D)
    labellings = np.concatenate([labels.index[None], design.shuffled])
    right, cosine, penalty = [], [], []
    for split in design.splits:
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        found = ridge_cells(cells, labellings, labels.embeddings, parts, split.candidates)
        right.append(found["predicted"] == labellings[:, split.test])
        cosine.append(found["cosine"][:, :1])
        penalty.append(np.log(found["penalty"][:, 0]))
    return np.concatenate(right, 2), np.concatenate(cosine, 2), np.exp(np.mean(penalty, axis=0))
