"""From a selection of the store to one feature vector a frame, with what is known of that frame.

Reads in batches and pools as it goes: memory holds the features and one batch, never a run.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent
from vlascope_base.text import counted, listed
from vlascope_latents.store import LatentStore, NotCapturedError, Selection
from vlascope_latents.store.selection import FrameRef

from vlascope_analysis.data.episodes import NO_TASK, Numbered
from vlascope_analysis.data.pooling import TokenPool, disjoint_spans, pool_tokens
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import TEXT_ONLY, Expert, FramesOf, Pool

BATCH_BYTES = 256 << 20
"""float32 bytes of what is read at a time."""


def stored_expert(expert: Expert) -> str:
    """An expert as the store calls it."""
    return "vlm" if expert == TEXT_ONLY else expert


@dataclasses.dataclass(frozen=True)
class Slice:
    """Which part of each frame becomes its features.

    Attributes:
        expert: of the policy's layout, or `text_only`: the vlm over the prompt's tokens.
        component: for example `hidden_states`.
        layers: the model's layer numbers; all that were captured unless told.
        denoise_steps: the same for steps of the flow; the action expert's alone.
        span: `image`, a camera, `text`, `state`, `action`; every captured token unless told. Of attention these are queries:
            the keys that were captured are features.
        pool: how tokens become one vector.
    """

    expert: Expert
    component: str = "hidden_states"
    layers: tuple[int, ...] | None = None
    denoise_steps: tuple[int, ...] | None = None
    span: str | None = None
    pool: Pool = "mean"

    def __post_init__(self):
        if self.expert == TEXT_ONLY and self.span not in (None, "text"):
            raise AnalysisError(f"--span {self.span}: text_only is the vlm over its span text; use --expert vlm")

    @property
    def stored_expert(self) -> str:
        """As the store calls it."""
        return stored_expert(self.expert)

    @property
    def stored_span(self) -> str | None:
        """The span as the store is asked for it."""
        return "text" if self.expert == TEXT_ONLY else self.span


@dataclasses.dataclass(frozen=True)
class Features:
    """One vector a frame, for each layer and denoise step.

    Attributes:
        array: float32 [Q, L, N, D]: denoise steps, layers, frames, features.
        frames: one row a frame: run, campaign, episode, suite, task_id, task_name, instruction (what the policy was told;
            None where that is not known), task_instruction (what the scene's own task says), episode_index, timestep,
            total_steps (missing where nobody said), success, status; `scene`: the task of a suite, whose layout of objects
            its episodes share (None where no task is known); `init_state`: that scene and the initial state that the episode
            begins from, or the episode's name where the store does not say it; and `value`: that of the label which is to be
            predicted (`Numbered.value`). Episodes of one scene look alike, and those of one initial state still more.
        layers: the model's layer numbers along L; (None,) for components without layers.
        denoise_steps: the same along Q; (None,) for the vlm.
        warnings: what the reader should know.
    """

    array: np.ndarray
    frames: pd.DataFrame
    layers: tuple[int | None, ...]
    denoise_steps: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()


def select_frames(
    store: LatentStore, episodes: Sequence[Numbered], what: Slice, timesteps: Sequence[int] | None = None,
    frames: FramesOf = "all",
) -> tuple[Selection, list[str]]:  # fmt: skip
    """The slice over the frames at `timesteps` (every captured frame unless told), and warnings. Reads no tensor.

    With `frames` `common` only timesteps are taken that every episode has; with `timesteps` too, episodes that have
    all of them.

    Raises:
        AnalysisError: no episode has a frame at one of the timesteps; lists those that exist.
        NotCapturedError: an episode lacks the component, a layer, a denoise step or the span; lists what it has.
    """
    if what.stored_expert == "vlm" and what.denoise_steps is not None:
        raise AnalysisError("--denoise-step: the vlm runs once, before the denoise steps; it is for --expert action")
    chosen = [e.episode for e in episodes]
    expert, component = what.stored_expert, what.component
    selection = store.select(
        expert, component, layers=what.layers, denoise_steps=what.denoise_steps, span=what.stored_span, episodes=chosen
    )
    if "span" in selection.dims and what.stored_span in (None, "all"):
        spans = store.spans(chosen[0].run)[expert]
        whole = disjoint_spans(selection.coordinates["span"], spans)
        if whole is not None and len(selection.coordinates["span"]) > 1:
            selection = store.select(
                expert, component, layers=what.layers, denoise_steps=what.denoise_steps, span=whole, episodes=chosen
            )
    found = selection.labels["timestep"]
    if timesteps is None:
        return (selection, []) if frames == "all" else _common(store, selection, found)
    missing = sorted(set(timesteps) - set(found.tolist()))
    if missing:
        raise AnalysisError(
            f"{store.path}: no episode has a frame at rollout step {listed(missing)}; found {listed(found.tolist())}"
        )
    selection = selection[np.flatnonzero(np.isin(found, list(timesteps)))]
    counts = Counter(map(_episode_of, selection.frames))
    least = 1 if frames == "all" else len(set(timesteps))
    selection = selection[[n for n, frame in enumerate(selection.frames) if counts[_episode_of(frame)] >= least]]
    left = sum(count >= least for count in counts.values())
    if not left:
        raise AnalysisError(
            f"{store.path}: no episode has a frame at each of the rollout steps {listed(timesteps)}; --frames all takes those "
            "that it has"
        )
    warnings = []
    if left < len(chosen):
        lacking = "have no frame at rollout step" if least == 1 else "lack a frame at one of the rollout steps"
        warnings.append(f"{len(chosen) - left} of {len(chosen)} episodes {lacking} {listed(timesteps)}: left out")
    return selection, warnings


def _common(store: LatentStore, selection: Selection, timesteps: np.ndarray) -> tuple[Selection, list[str]]:
    """The frames at timesteps that every episode of a selection has."""
    names = list(map(_episode_of, selection.frames))
    having: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for name, timestep in zip(names, timesteps.tolist(), strict=True):
        having[timestep].add(name)
    episodes = len(set(names))
    common = [timestep for timestep, own in having.items() if len(own) == episodes]
    if len(common) == len(having):
        return selection, []
    last = dict(sorted(zip(names, timesteps.tolist(), strict=True), key=lambda pair: pair[1]))
    shortest = min(last, key=lambda name: last[name])
    if not common:
        raise AnalysisError(
            f"{store.path}: no rollout step is common to all {episodes} episodes: --exclude-episodes leaves out episodes, "
            f"--frames all takes every frame; the shortest episode is {shortest[1]}"
        )
    kept = np.flatnonzero(np.isin(timesteps, common))
    return selection[kept], [
        f"episodes differ in their frames: taken are the {len(common)} rollout steps that all of them have (to {max(common)}), "
        f"{len(kept)} of {len(names)} frames; the shortest episode is {shortest[1]}; --frames all takes every frame"
    ]


def _episode_of(frame: FrameRef) -> tuple[str, str]:
    return frame.episode.run, frame.episode.row.folder


def load_features(
    store: LatentStore,
    episodes: Sequence[Numbered],
    what: Slice,
    timesteps: Sequence[int] | None = None,
    progress: Progress = silent,
    frames: FramesOf = "all",
) -> Features:
    """Reads and pools a slice. Features may hold what is not finite: `fault` names it.

    Raises:
        AnalysisError, NotCapturedError: as `select_frames`.
    """
    selection, warnings = select_frames(store, episodes, what, timesteps, frames)
    pool = _token_pool(store, selection, what)
    layers = tuple(selection.coordinates.get("layer", (None,)))
    steps = tuple(selection.coordinates.get("denoise_step", (None,)))
    array: np.ndarray | None = None
    size = max(1, BATCH_BYTES // (4 * int(np.prod(selection.shape[1:]))))
    done = 0
    doing = f"reading {what.expert}"
    for batch in selection.batches(size):
        part = _pooled(batch, pool)
        if array is None:
            array = np.empty((*part.shape[1:3], len(selection), part.shape[3]), np.float32)
        array[:, :, done : done + len(batch)] = np.moveaxis(part, 0, 2)
        done += len(batch)
        progress(doing, done, len(selection))
    if array is None:
        raise AnalysisError(f"{store.path}: the episodes have no captured frames")
    if pool is not None:
        warnings += pool.warnings
    if of_attention := _of_attention(selection, what):
        warnings.append(of_attention)
    return Features(array, frame_table(selection, episodes), layers, steps, tuple(warnings))


def _of_attention(selection: Selection, what: Slice) -> str | None:
    """Which queries and keys a slice of attention is made of; None for other components."""
    coordinates = selection.coordinates
    keys = coordinates.get("key_span", coordinates.get("key"))
    if keys is None:
        return None
    queries = coordinates.get("span", coordinates.get("token", []))
    of_keys = f"the keys of {listed(keys)}" if "key_span" in coordinates else f"keys {listed(keys)}"
    of_queries = f"the queries of {listed(queries)}" if "span" in coordinates else f"queries {listed(queries)}"
    return f"{what.expert}, {what.component}: pooled over {of_queries}; by head, {of_keys} are features"


def captured_axes(
    store: LatentStore, episodes: Sequence[Numbered], expert: str, component: str
) -> dict[str, list[int]]:
    """`layer` and `denoise_step` numbers that the first episode holds of a component.

    Raises:
        NotCapturedError: it does not hold the component; lists what it holds.
    """
    tensors = episodes[0].episode.tensors()
    path = f"{expert}/{component}"
    if path not in tensors:
        raise NotCapturedError(f"{store.path}: {path} was not captured; captured: {listed(tensors)}")
    return tensors[path].numbers


def frame_table(selection: Selection, episodes: Sequence[Numbered]) -> pd.DataFrame:
    """What is known of each frame of a selection; see `Features.frames`."""
    labels = selection.labels
    columns = ("run", "campaign", "episode", "suite", "task_id", "task_name", "timestep", "success", "status")
    table = pd.DataFrame({name: labels[name] for name in columns})
    for name in ("instruction", "task_instruction"):
        table[name] = pd.Series(labels[name], dtype=object)
    numbers = {(e.episode.run, e.episode.row.folder): e.number for e in episodes}
    table["episode_index"] = [numbers[f.episode.run, f.episode.row.folder] for f in selection.frames]
    table["total_steps"] = pd.array([f.episode.row.total_steps for f in selection.frames], dtype="Int64")
    start = [_start(f.episode.metadata.get("init_state"), f.episode.row.name) for f in selection.frames]
    task = table["suite"] + "/" + table["task_id"].astype(str)
    table["init_state"] = task + "/" + pd.Series(start, dtype=object)
    table["scene"] = task.where(table["task_id"] != NO_TASK, None)
    values = {(e.episode.run, e.episode.row.folder): e.value for e in episodes}
    table["value"] = pd.Series([values[_episode_of(frame)] for frame in selection.frames], dtype=object)
    return table


def _start(init_state: int | None, name: str) -> str:
    # without run and campaign: an episode of the same name begins from the same state, whatever was told there
    return f"episode {name}" if init_state is None else f"initial state {init_state}"


def fault(x: np.ndarray, frames: pd.DataFrame) -> str | None:
    """Why features [N, D] of one cell cannot be scored; None where they can."""
    if not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        first = frames.iloc[int(bad[0])]
        others = f" and {counted(len(bad) - 1, 'other frame')}" if len(bad) > 1 else ""
        return f"not finite in episode {first['episode']}, timestep {first['timestep']}{others}"
    # but for rounding: means of equal tokens differ in their last digits
    if (np.ptp(x, axis=0) <= 1e-6 * np.abs(x).max(axis=0)).all():
        return "the same in every frame"
    return None


def _token_pool(store: LatentStore, selection: Selection, what: Slice) -> TokenPool | None:
    if not {"token", "span"} & set(selection.dims):
        if what.span is not None:
            raise AnalysisError(f"--span {what.span}: {what.component} has no tokens")
        return None
    if not selection.frames:
        return TokenPool(store.spans()[what.stored_expert], what.pool, "none")
    frame = selection.frames[0]
    tensor = frame.view.tensor
    held = tensor.attributes.get("span_tokens")
    captured = None if held is None else dict(zip(tensor.attributes["spans"], held, strict=True))
    return TokenPool(store.spans(frame.episode.run)[what.stored_expert], what.pool, tensor.reduction, captured)


def _pooled(batch: Selection, pool: TokenPool | None) -> np.ndarray:
    """One batch as float32 [frames, Q, L, D]."""
    array = batch.array()
    if "denoise_step" not in batch.dims:
        array = array[:, None]
    if "layer" not in batch.dims:
        array = array[:, :, None]
    if pool is None:
        return array.reshape(*array.shape[:3], -1)
    # heads and keys of attention are features too; norm scales have one
    tokens = batch.dims.index("token" if "token" in batch.dims else "span") - len(batch.dims) + array.ndim
    array = np.moveaxis(array, tokens, 3)
    return pool_tokens(array.reshape(*array.shape[:4], -1), pool.weights(batch))
