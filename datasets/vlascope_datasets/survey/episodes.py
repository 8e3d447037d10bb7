"""Facts of one episode, whatever it is stored in, and what its numbers alone show to be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Summary = dict[str, Any]
"""What `dataset_statistics.json` holds, or a part of it."""

# enough for quantiles of a dataset, little enough to keep for every episode
_ACTIONS_KEPT = 256
_WORDS = {
    "left": ("left", "leftward", "leftwards"),
    "right": ("right", "rightward", "rightwards"),
    "up": ("up", "upward", "upwards"),
    "down": ("down", "downward", "downwards"),
    "forward": ("forward", "forwards"),
    "backward": ("backward", "backwards"),
    "horizontal": ("horizontal", "horizontally", "horiz", "hori"),
    "vertical": ("vertical", "vertically", "vert"),
    "clockwise": ("clockwise", "cw"),
    "counterclockwise": ("counterclockwise", "anticlockwise", "ccw"),
}
_KNOWN = {word: direction for direction, words in _WORDS.items() for word in words}
# `pick up` and `put down` say what is done, not where to
_IDIOMS = re.compile(r"\b(pick|picks|picking|lift|lay|laying|put|set|sit|stand|turn)(\s+(it|them))?\s+(up|down)\b")


@dataclasses.dataclass(frozen=True)
class Anomaly:
    """Something that is not as it should be.

    Attributes:
        file: in which; relative to what was surveyed.
        kind: a word for counting, for example `not_finite`.
        detail: one line for a person.
        episode: its name, where it is one episode's.
    """

    file: str
    kind: str
    detail: str
    episode: str | None = None


@dataclasses.dataclass
class EpisodeFacts:
    """One episode.

    Attributes:
        name: unique among those surveyed.
        file: relative to what was surveyed.
        nbytes: on disk; its share by frames of files that hold several.
        length: frames; 0 where they could not be read.
        task: instruction, or what the file's name says.
        direction: see `direction_of`.
        actions: sampled, [m, a]; None where there are none.
        digest: of its actions and states, to find copies; empty where there are none.
        anomalies: found in it.
    """

    name: str
    file: str
    nbytes: int
    length: int = 0
    task: str = ""
    direction: str = ""
    actions: np.ndarray | None = None
    digest: str = ""
    anomalies: list[Anomaly] = dataclasses.field(default_factory=list)

    def report(self, kind: str, detail: str, file: str | None = None) -> None:
        """Adds an anomaly."""
        self.anomalies.append(Anomaly(file or self.file, kind, detail, self.name))

    def examine(self, columns: Mapping[str, np.ndarray], action_key: str | None) -> None:
        """Looks at columns of numbers [n, ...]: what is not finite, what never moves; keeps a sample of the actions."""
        digest = hashlib.blake2b(digest_size=16)
        for key in sorted(columns):
            values = columns[key]
            if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
                rows = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
                self.report("not_finite", f"{key}: {len(rows)} frames hold NaN or infinity, the first is {rows[0]}")
            digest.update(key.encode() + np.ascontiguousarray(values).tobytes())
        if columns:
            self.digest = digest.hexdigest()
        actions = columns.get(action_key) if action_key else None
        if actions is None or not len(actions):
            return
        actions = actions.reshape(len(actions), -1).astype(np.float64)
        if len(actions) > 1 and (actions == actions[0]).all():
            self.report("constant_action", f"{action_key}: the same in all {len(actions)} frames")
        kept = np.unique(np.linspace(0, len(actions) - 1, min(len(actions), _ACTIONS_KEPT)).astype(int))
        self.actions = actions[kept]


@dataclasses.dataclass
class Facts:
    """Everything that was found.

    Attributes:
        format: for example `LeRobot v2.1`.
        root: what was surveyed.
        nbytes: on disk.
        episodes: in order.
        fps: frames a second, where it is known.
        robot_type: where it is known.
        features: dtype and shape by column; of the first episode where a format does not declare them.
        action_key: the column of actions, where there is one.
        action_names: of its dimensions.
        anomalies: of no single episode.
        unread: columns that are not looked into: why.
    """

    format: str
    root: str
    nbytes: int
    episodes: list[EpisodeFacts]
    fps: float | None = None
    robot_type: str | None = None
    features: Summary = dataclasses.field(default_factory=dict)
    action_key: str | None = None
    action_names: list[str] = dataclasses.field(default_factory=list)
    anomalies: list[Anomaly] = dataclasses.field(default_factory=list)
    unread: dict[str, str] = dataclasses.field(default_factory=dict)

    def all_anomalies(self) -> list[Anomaly]:
        """Of the dataset and of every episode."""
        return self.anomalies + [anomaly for episode in self.episodes for anomaly in episode.anomalies]


def find_action_key(keys: list[str]) -> str | None:
    """The column of actions: `action` or `actions`, alone or as the last part of a path; else the first that says so."""
    for wanted in ("action", "actions"):
        for key in keys:
            if key.rsplit("/", 1)[-1] == wanted:
                return key
    return next((key for key in keys if key.rsplit("/", 1)[-1].startswith("action")), None)


def compare(episodes: list[EpisodeFacts]) -> None:
    """Finds episodes that differ from the others in length, and those that are copies of others."""
    lengths = np.array([episode.length for episode in episodes if episode.length])
    if len(lengths) >= 8:
        median = float(np.median(lengths))
        # 1.4826 makes the median deviation a standard deviation for normal data; at least a twentieth of the length
        spread = max(1.4826 * float(np.median(np.abs(lengths - median))), 0.05 * median)
        for episode in episodes:
            if episode.length and abs(episode.length - median) > 6 * spread:
                which = "long" if episode.length > median else "short"
                episode.report(
                    "unusual_length", f"{episode.length} frames: unusually {which}, half have up to {median:.0f}"
                )
    first: dict[str, str] = {}
    for episode in episodes:
        if episode.digest and first.setdefault(episode.digest, episode.name) != episode.name:
            episode.report("duplicate", f"the same numbers as {first[episode.digest]}")


def direction_of(*texts: str) -> str:
    """The directions in the first text that has any, in the order in which they are said, such as `horizontal left`.

    Args:
        texts: an instruction, then perhaps a file's name.

    Returns:
        Empty where there are none.
    """
    for text in texts:
        words = re.findall(r"[a-z]+", _IDIOMS.sub(" ", re.sub(r"[_\-.]", " ", text.lower())))
        found = dict.fromkeys(_KNOWN[word] for word in words if word in _KNOWN)
        if found:
            return " ".join(found)
    return ""
