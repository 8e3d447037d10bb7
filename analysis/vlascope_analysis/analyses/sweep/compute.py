"""The sweep: a closed-form ridge probe for every expert, layer, denoise step and window of time. From a store to a result.

Features come layer by layer, so that memory holds a block of layers and never a run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent
from vlascope_base.text import listed
from vlascope_latents.store import LatentStore, NotCapturedError

from vlascope_analysis.analyses.controls import NO_CONTROL, against_control, baselines, without_permutations
from vlascope_analysis.data.control import ControlRun
from vlascope_analysis.data.episodes import Numbered
from vlascope_analysis.data.features import (
    Features,
    Slice,
    captured_axes,
    fault,
    load_features,
    select_frames,
    stored_expert,
)
from vlascope_analysis.data.labels import Labels
from vlascope_analysis.data.metadata_features import metadata_features
from vlascope_analysis.data.windows import Window, gripper_closes, make_windows
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import TEXT_ONLY, EvaluationConfig, Expert, FeatureOptions, Windows
from vlascope_analysis.probes.closed_form import ClosedForm, closed_form, crowded, time_tells
from vlascope_analysis.results import Result
from vlascope_analysis.statistics.evaluation import UNSCORED, Design, Scores, score_row
from vlascope_analysis.statistics.intervals import caution
from vlascope_analysis.statistics.permutation import p_value_of_best

BLOCK_BYTES = 1 << 30
"""Features to hold at a time; as many again of a control run."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which cells a sweep has.

    Attributes:
        experts: whose states; one at least.
        what: which frames, which component, how it is pooled.
        by: a cell for each timestep, part of the episode, or side of the grasp; all frames together unless told.
        parts: how many parts of an episode, for `fraction`.
    """

    experts: Sequence[Expert]
    what: FeatureOptions
    by: Windows | None = None
    parts: int = 4

    @property
    def features(self) -> FeatureOptions:
        """`what`, with every frame where windows take the place of common timesteps."""
        return dataclasses.replace(self.what, frames="all") if self.by in ("fraction", "grasp") else self.what


def sweep(
    store: LatentStore,
    episodes: Sequence[Numbered],
    wanted: Wanted,
    evaluation: EvaluationConfig,
    labels: Callable[[pd.DataFrame], Labels],
    progress: Progress = silent,
    *,
    control: ControlRun | None = None,
) -> Result:
    """Probes every captured layer and denoise step of some experts, in every window of time.

    Splits and permuted labels are the same for every cell, so that cells differ by their features alone.

    Args:
        store: where the features are.
        episodes: whose, chosen for the label.
        wanted: which cells.
        evaluation: how to test.
        labels: those of frames (`Features.frames`).
        progress: called after every batch that was read.
        control: partners of the episodes, of weights at random; every cell is scored on them too.

    Returns:
        Tables: `cells`, one row a cell: expert, component, layer, denoise_step (missing for the vlm), window where
        asked, its scores, `p_value_best`, how often the best cell of the whole sweep does as well with permuted
        labels, and what the control run reaches; `classes`; `baselines`, what the best cell is compared with; `tested`, one row
        a tested episode; `episodes`, what each of them scored in each cell and assignment.

    Raises:
        AnalysisError, NotCapturedError: as for features and splits; lists what there is.
    """
    evaluation.check()
    found, what = _Sweep(store, episodes, wanted, evaluation, labels, control), wanted.features
    for expert in wanted.experts:
        cells_of = Slice(expert, what.component, pool=what.pool)
        for features in _blocks(store, episodes, cells_of, what, progress):
            found.add(features, cells_of, progress)
            del features
    return found.result()


@dataclasses.dataclass(frozen=True)
class _Best:
    """The best cell so far, by rank accuracy: its features, frames and scores."""

    rank_accuracy: float
    x: np.ndarray
    frames: np.ndarray
    scores: Scores


class _Sweep:
    """Cells as they are scored; labels and design are made of the first block's frames."""

    def __init__(
        self,
        store: LatentStore,
        episodes: Sequence[Numbered],
        wanted: Wanted,
        evaluation: EvaluationConfig,
        labels: Callable[[pd.DataFrame], Labels],
        control: ControlRun | None,
    ):
        self._store, self._episodes, self._what, self._evaluation = store, episodes, wanted.features, evaluation
        self._label, self._parts, self._control = labels, wanted.parts, control
        self._by: Windows | None = wanted.by
        self._known: Mapping[str, np.ndarray | None] = {}
        self._frames = pd.DataFrame()
        self._design: Design | None = None
        self._labels: Labels | None = None
        self._windows: list[Window] = []
        self._of_frame = np.zeros(0, np.int64)
        self._rows: list[dict[str, object]] = []
        self._observed: list[float] = []
        self._nulls: list[np.ndarray] = []
        self._tables: list[pd.DataFrame] = []
        self._warnings: list[str] = []
        self._best: _Best | None = None

    def add(self, features: Features, what: Slice, progress: Progress) -> None:
        """Scores the cells of a block of layers, and those of the control run."""
        beside = None if self._control is None else self._beside(features, what, progress)
        design = self._design or self._begin(features.frames, what)
        self._warnings += features.warnings
        cells = [
            (q, block, window)
            for q in range(len(features.denoise_steps))
            for block in range(len(features.layers))
            for window in self._windows
        ]

        bare = without_permutations(design)

        def solve(cell: tuple[int, int, Window]) -> tuple[str | ClosedForm, str | ClosedForm | None]:
            q, block, window = cell
            own, of_frame = features.frames.iloc[window.frames], self._of_frame[window.frames]
            x = features.array[q, block][window.frames]
            found = fault(x, own) or closed_form(x, of_frame, design)
            if beside is None or isinstance(found, str):
                return found, None
            other = beside.array[q, block][window.frames]
            return found, fault(other, own) or closed_form(other, of_frame, bare)

        # cells share nothing, and their time is spent outside of Python
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for (q, block, window), found in zip(cells, pool.map(solve, cells), strict=True):
                place: dict[str, object] = {"expert": what.expert, "component": what.component}
                place |= {"layer": features.layers[block], "denoise_step": features.denoise_steps[q]}
                place |= {"window": window.name} if self._by else {}
                self._keep(place, *found, features.array[q, block], window)

    def _beside(self, features: Features, what: Slice, progress: Progress) -> Features:
        """The same block of the control run."""
        control, layers = self._control, tuple(layer for layer in features.layers if layer is not None)
        if control is None:
            raise ValueError("there is no control run")
        block = dataclasses.replace(what, layers=layers or None)
        return control.features(features.frames, block, self._what.timesteps, self._what.frames, progress)

    def _begin(self, frames: pd.DataFrame, what: Slice) -> Design:
        grasping = None
        if self._by == "grasp":
            # the same frames in every block: those of the first layer do
            grasping = gripper_closes(self._store, self._episodes, what, self._what.timesteps)
        self._known = metadata_features(self._store, self._episodes, what, self._what.timesteps, self._what.frames)
        self._frames = frames
        self._windows, warnings = make_windows(frames, self._by, self._parts, grasping)
        kept = np.sort(np.concatenate([window.frames for window in self._windows]))
        own = frames.iloc[kept].reset_index(drop=True)
        self._labels = self._label(own)
        self._design = design = Design.of(own, self._labels, self._evaluation)
        self._of_frame = np.full(len(frames), -1)
        self._of_frame[kept] = design.episodes.of_frame
        self._warnings += [*warnings, *self._labels.warnings, *design.warnings]
        for window in self._windows:
            where = f"{window.name}: " if self._by else ""
            own_frames, of_frame = frames.iloc[window.frames], self._of_frame[window.frames]
            self._warnings += time_tells(own_frames, of_frame, design, where)
        return design

    def _keep(
        self,
        place: dict[str, object],
        found: str | ClosedForm,
        beside: str | ClosedForm | None,
        x: np.ndarray,
        window: Window,
    ) -> None:
        """Adds a cell to the tables: what was found, here and in the control run, or why it cannot be scored."""
        design = self._design
        if design is None:
            raise ValueError("a cell needs a design")
        facts = design.facts(len(window.frames))
        if isinstance(found, str):
            self._rows.append(place | UNSCORED | {"penalty": np.nan, "note": found} | NO_CONTROL | facts)
            self._observed.append(np.nan)
            self._nulls.append(np.full(self._evaluation.permutations, np.nan))
            return
        row = score_row(found.scores, design)
        self._tables.append(_by_episode(found.scores, len(self._rows)))
        over = dict(NO_CONTROL)
        if isinstance(beside, ClosedForm) and self._control is not None:
            over = against_control(found.scores, beside.scores, design, self._control.name)
        self._rows.append(place | row | {"penalty": found.penalty, "note": ""} | over | facts)
        # the first assignment alone is compared with permutations
        self._observed.append(float(design.means.mean(found.scores.beaten[0])))
        self._nulls.append(found.scores.null_beaten)
        if self._best is None or row["rank_accuracy"] > self._best.rank_accuracy:
            self._best = _Best(row["rank_accuracy"], x[window.frames], window.frames, found.scores)

    def result(self) -> Result:
        """The tables, and what to say of them."""
        design, labels = self._design, self._labels
        if design is None or labels is None:
            raise ValueError("a sweep needs at least one expert")
        table = pd.DataFrame(self._rows).astype({"layer": "Int64", "denoise_step": "Int64"})
        faults = [str(row["note"]) for row in self._rows if row["note"]]
        warnings = list(self._warnings)
        if self._best is None:
            raise AnalysisError(
                f"no cell can be scored: the first one's features are {faults[0]}; --exclude-episodes leaves out "
                "episodes"
            )
        if faults:
            kinds = {fault.split(" ")[0]: fault for fault in reversed(faults)}  # the first of each kind
            remedy = "; --exclude-episodes leaves out episodes" if "not" in kinds else ""
            warnings.append(
                f"{len(faults)} of {len(table)} cells are not scored (their `note` says why), such as features that are "
                f"{' and features that are '.join(kinds.values())}{remedy}"
            )
        table["p_value_best"] = p_value_of_best(np.array(self._observed), np.stack(self._nulls))
        best = table.to_dict("records")[int(np.nanargmax(table["rank_accuracy"].to_numpy()))]
        chosen = self._best.frames
        of_frame = self._of_frame[chosen]
        warnings += crowded(self._best.x, of_frame, design)
        warnings += caution(design.test_units, best["accuracy_low"], best["accuracy_high"], design.unit)
        known = {name: None if x is None else x[chosen] for name, x in self._known.items()}
        beside = baselines(known, self._frames.iloc[chosen], of_frame, self._best.x, self._best.scores, design)
        tables = {
            "cells": table, "baselines": beside, "classes": labels.table(), "tested": _tested_episodes(design),
            "episodes": pd.concat(self._tables, ignore_index=True),
        }  # fmt: skip
        return Result("sweep", tables, ("cells", "tested", "episodes"), tuple(dict.fromkeys(warnings)))


def captured_experts(store: LatentStore, episodes: Sequence[Numbered], component: str) -> list[Expert]:
    """The experts that the first episode holds a component of, in the order in which they run; `text_only` behind the vlm where
    the prompt's tokens are among what is held.

    Raises:
        NotCapturedError: there is none; lists what there is.
    """
    episode = episodes[0].episode
    tensors = episode.tensors()
    found: list[Expert] = []
    for expert in store.spans(episode.run):
        tensor = tensors.get(f"{expert}/{component}")
        if tensor is None:
            continue
        found.append(expert)
        names = [span if isinstance(span, str) else span["name"] for span in tensor.attributes.get("spans", [])]
        if expert == stored_expert(TEXT_ONLY) and "text" in names:
            found.append(TEXT_ONLY)
    if not found:
        raise NotCapturedError(
            f"{store.path}: {component} of no expert was captured; captured: {listed(tensors)}; choose with --component"
        )
    return found


def _blocks(
    store: LatentStore, episodes: Sequence[Numbered], what: Slice, options: FeatureOptions, progress: Progress
) -> Iterator[Features]:
    """Features of a few layers at a time."""
    timesteps = options.timesteps
    layers = captured_axes(store, episodes, what.stored_expert, what.component).get("layer")
    if layers is None:  # the flow, the stream before block 0 and behind the last norm
        yield load_features(store, episodes, what, timesteps, progress, options.frames)
        return
    # of one episode: the metadata of all of them is read once more for each block
    one, _ = select_frames(store, episodes[:1], dataclasses.replace(what, layers=(layers[0],)))
    frames = len(one) * len(episodes) if timesteps is None else len(timesteps) * len(episodes)
    steps = one.shape[1] if "denoise_step" in one.dims else 1
    width = one.shape[-1] if one.dims[-1].endswith("feature") else 1
    size = max(1, BLOCK_BYTES // (4 * max(1, frames) * steps * width))
    for start in range(0, len(layers), size):
        block = dataclasses.replace(what, layers=tuple(layers[start : start + size]))
        yield load_features(store, episodes, block, timesteps, progress, options.frames)


def _by_episode(scores: Scores, cell: int) -> pd.DataFrame:
    """What each tested episode scored in a cell: one row an assignment and episode, numbers into the table `tested`."""
    A, T = scores.right.shape
    return pd.DataFrame(
        {
            "cell": np.full(A * T, cell, np.int32),
            "assignment": np.repeat(np.arange(A, dtype=np.int8), T),
            "number": np.tile(np.arange(T, dtype=np.int32), A),
            "accuracy": scores.right.ravel(),
            "rank_accuracy": scores.beaten.ravel(),
            "cosine_similarity": scores.cosine.ravel(),
        }
    )


def _tested_episodes(design: Design) -> pd.DataFrame:
    """One row a tested episode: what it was, and its class, unit and pool in means."""
    columns = ["run", "campaign", "episode", "suite", "task_id", "instruction", "episode_index", "scene", "init_state"]
    table = design.episodes.table.iloc[design.tested][[*columns, "success"]].reset_index(drop=True)
    table.insert(0, "number", np.arange(len(table), dtype=np.int32))
    means = design.means
    return table.assign(label=means.label, unit=means.units, pool=0 if means.pools is None else means.pools)
