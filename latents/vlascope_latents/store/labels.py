"""What is known of each frame: which labels there are is decided here alone, for selections, for xarray and for tables.

A label is a plain value: text, a number or a truth value. Everything but `timestep` and `frame` is known of a whole episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import StoreError

if TYPE_CHECKING:
    import pandas

Plain: TypeAlias = str | int | float | bool

_FROM_METADATA = (
    "suite", "task_id", "task_name", "instruction", "task_instruction", "episode_index", "init_state", "seed",
)  # fmt: skip
"""Metadata that have a label of their own name. Any other is `metadata.<key>`."""

_KINDS: dict[str, type] = {
    "run": str,
    "campaign": str,
    "episode": str,
    "attempt": int,
    "status": str,
    "suite": str,
    "task_id": int,
    "task_name": str,
    "instruction": str,
    "task_instruction": str,
    "episode_index": int,
    "init_state": int,
    "seed": int,
    "success": bool,
    "total_steps": int,
}
"""Labels that every episode has, known or not, in their order, and what their values are where none is known."""

_PANDAS: dict[type, str] = {str: "string", int: "Int64", float: "float64", bool: "boolean", object: "object"}
_NUMPY: dict[type, type] = {str: np.str_, int: np.int64, float: np.float64, bool: np.bool_, object: object}


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """The labels of some frames.

    Attributes:
        episodes: the episodes that the frames are of.
        owner: int64 [frames], the episode of each frame as a number into `episodes`.
        timestep: int64 [frames], environment steps.
        frame: int64 [frames], numbers within the episode, from 0.
    """

    episodes: Sequence[Episode]
    owner: np.ndarray
    timestep: np.ndarray
    frame: np.ndarray

    def arrays(self, unknown: Mapping[str, Plain] | None = None) -> dict[str, np.ndarray]:
        """By name, arrays [frames]: text, int64, float64 or bool where every episode has a value of that kind.

        Where one has none, `unknown` says what stands for it under this name; else a label with fractions is NaN there, and
        any other label is an object array with None. The text of `metadata.<key>` is an object array too: it may be long.
        """
        found: dict[str, np.ndarray] = {}
        for column in self._known():
            found[column.name] = column.filled((unknown or {}).get(column.name)).array()[self.owner]
        found |= {"timestep": self.timestep, "frame": self.frame}
        for column in self._further():
            text = column.kind is str
            found[column.name] = (column.array(object) if text else column.array())[self.owner]
        return found

    def table(self) -> pandas.DataFrame:
        """One row a frame, one column a label; NA (NaN in a column with fractions) where it is not known.

        Raises:
            StoreError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise StoreError("frames: needs pandas: install vlascope-latents[pandas]") from error

        def expand(column: _Column) -> pandas.api.extensions.ExtensionArray:
            values = column.array() if column.kind is float else column.values
            return pandas.array(values, dtype=_PANDAS[column.kind]).take(self.owner)

        columns: dict[str, object] = {column.name: expand(column) for column in self._known()}
        columns |= {"timestep": self.timestep, "frame": self.frame}
        columns |= {column.name: expand(column) for column in self._further()}
        return pandas.DataFrame(columns)

    def _known(self) -> list[_Column]:
        found = [_known_of(episode) for episode in self.episodes]
        return [_column(name, [labels[name] for labels in found], kind) for name, kind in _KINDS.items()]

    def _further(self) -> list[_Column]:
        """Metadata without a name of their own; lists and maps are no labels, and stay in `Episode.metadata`."""
        keys = dict.fromkeys(
            key
            for episode in self.episodes
            for key, value in episode.metadata.items()
            if key not in _FROM_METADATA and (value is None or isinstance(value, Plain))
        )
        return [_column(f"metadata.{key}", [e.metadata.get(key) for e in self.episodes], object) for key in keys]


def episode_labels(episode: Episode) -> dict[str, Plain | None]:
    """What is known of a whole episode, by name: `run` to `total_steps`, then its further metadata by their own keys.

    None is what is not known. Lists and maps are no labels. A key of the metadata that is a label's name too is left out.
    """
    known = _known_of(episode)
    found = {name: value if isinstance(value, Plain) else None for name, value in known.items()}
    return found | {
        key: value
        for key, value in episode.metadata.items()
        if key not in found and (value is None or isinstance(value, Plain))
    }


def _known_of(episode: Episode) -> dict[str, object]:
    row = episode.row
    return {
        "run": episode.run,
        "campaign": row.campaign,
        "episode": row.episode,
        "attempt": row.attempt,
        "status": row.status,
        **{name: row.metadata.get(name) for name in _FROM_METADATA},
        "success": row.success,
        "total_steps": row.total_steps,
    }


@dataclasses.dataclass(frozen=True)
class _Column:
    """One label: its kind (str, int, float, bool, or object where values of several kinds mix), and a value an episode."""

    name: str
    kind: type
    values: list[Plain | None]

    def filled(self, unknown: Plain | None) -> _Column:
        if unknown is None:
            return self
        return dataclasses.replace(self, values=[unknown if value is None else value for value in self.values])

    def array(self, dtype: type | None = None) -> np.ndarray:
        """[episodes] of `dtype`, or of what fits the kind best; see `FrameLabels.arrays`."""
        if dtype is None:
            known = self.kind is float or None not in self.values
            dtype = _NUMPY[self.kind] if known else object
        return np.array(self.values, dtype)


def _column(name: str, found: Sequence[object], usual: type) -> _Column:
    """`usual` is the kind where no value is known."""
    values = [value if isinstance(value, Plain) else None for value in found]
    kinds = {type(value) for value in values if value is not None} or {usual}
    if kinds == {int, float}:
        kinds = {float}
    kind = kinds.pop() if len(kinds) == 1 else object
    if kind is int and not all(-(2**63) <= value < 2**63 for value in values if isinstance(value, int)):
        kind = object
    return _Column(name, kind, values)
