"""The value of a label in each episode: of what is known of the episode, or of an annotation that stays the same in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
from vlascope_base.text import listed, printable
from vlascope_latents.store import Episode
from vlascope_latents.store.index import FrameLine, decode_value
from vlascope_latents.store.labels import episode_labels

from vlascope_analysis.errors import AnalysisError

Value: TypeAlias = str | int | float | bool

MANY_VALUES = 20
"""So many different numbers are classes; more are classes only where each is seen often."""

_ANNOTATIONS = "annotations/"


def label_values(
    episodes: Sequence[Episode], label: str, timesteps: Collection[int] | None = None
) -> list[Value | None]:
    """What a label says of each episode; None where the episode does not have it.

    Args:
        episodes: of which.
        label: the name of what is known of episodes (`episode_labels`), or of an annotation, with or without `annotations/`.
        timesteps: frames whose annotations count; every captured frame unless told.

    Raises:
        AnalysisError: no episode has it, it changes within an episode, or it is a number that tells no classes apart.
    """
    known = [episode_labels(episode) for episode in episodes]
    if any(label in own for own in known):
        values: list[Value | None] = [own.get(label) for own in known]
    else:
        values = _annotated(episodes, known, label, timesteps)
    if not any(value is not None for value in values):
        raise AnalysisError(f"--label {printable(label)}: none of {len(values)} episodes has a value of it")
    _few(values, label)
    return values


def _annotated(
    episodes: Sequence[Episode],
    known: Sequence[dict[str, Value | None]],
    label: str,
    timesteps: Collection[int] | None,
) -> list[Value | None]:
    name = _ANNOTATIONS + label.removeprefix(_ANNOTATIONS)
    annotations: set[str] = set()
    values: list[Value | None] = []
    for episode in episodes:
        lines = [line for line in episode.lines() if timesteps is None or line.timestep in timesteps]
        annotations |= {value for line in lines for value in line.values if value.startswith(_ANNOTATIONS)}
        values.append(_constant(episode, [line for line in lines if name in line.values], name, label))
    if label in ("timestep", "frame"):
        raise AnalysisError(f"--label {label}: changes from frame to frame; a label is one value an episode")
    if name not in annotations:
        names = dict.fromkeys(key for own in known for key in own)
        raise AnalysisError(
            f"--label {printable(label)}: no episode has it; known of episodes are {listed(names)}; annotations "
            f"are {listed(sorted(annotations))}"
        )
    return values


def _constant(episode: Episode, lines: Sequence[FrameLine], name: str, label: str) -> Value | None:
    """An annotation's value in an episode; None where no frame has it."""
    found = [decode_value(line.values[name]) for line in lines]
    if not found:
        return None
    if found[0].size != 1:
        raise AnalysisError(
            f"--label {printable(label)}: holds {found[0].size} numbers a frame; a label is one value an episode"
        )
    for line, value in zip(lines, found, strict=True):
        if not np.array_equal(value, found[0], equal_nan=True):
            raise AnalysisError(
                f"--label {printable(label)}: changes within episode {printable(episode.id)}, from {found[0].item()} at "
                f"timestep {lines[0].timestep} to {value.item()} at {line.timestep}; a label is one value an episode: "
                f"--rollout-step {lines[0].timestep} takes the frames of one timestep, and the label as it is there"
            )
    value = found[0].item()
    return None if value != value else value  # NaN says nothing


def _few(values: Sequence[Value | None], label: str) -> None:
    """Raises AnalysisError where a label is a number with so many values that they are no classes."""
    known = [value for value in values if value is not None]
    numbers = {value for value in known if isinstance(value, int | float) and not isinstance(value, bool)}
    continuous = any(isinstance(value, float) and value % 1 for value in numbers)
    if len(numbers) > MANY_VALUES and (continuous or 3 * len(numbers) > len(known)):
        raise AnalysisError(
            f"--label {printable(label)}: numbers, {len(numbers)} different ones (from {min(numbers):g} to {max(numbers):g}) "
            f"in {len(known)} episodes; a probe tells classes apart: choose a label of few values, each of several episodes"
        )
