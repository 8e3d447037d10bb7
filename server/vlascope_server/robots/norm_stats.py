"""Normalisation statistics of a robot's state and actions: the file beside a checkpoint, and one pass over data.

They are applied in `arithmetic.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from vlascope_base import VlascopeError
from vlascope_base.files import replace_json

from vlascope_server.json_file import JsonError, JsonMap, read_json

QUANTITIES = ("state", "actions")
"""Whose statistics a policy needs."""

_QUANTILES = ("q01", "q99")
_FIELDS = ("mean", "std", *_QUANTILES)
_BINS = 5000
"""Histogram bins a dimension; the reference's number, so that quantiles agree with published statistics."""
_EDGE_MARGIN = 1e-10
"""Widens the first batch's histogram, so that a constant dimension has bins of a width; the reference's number."""


class NormStatsError(VlascopeError):
    """Statistics that cannot be used; the message is one line that names the file or the key."""


@dataclasses.dataclass(frozen=True, eq=False)
class NormStats:
    """Statistics of one vector quantity, for example the state; in its own units, one number a dimension.

    Attributes:
        mean: float64.
        std: float64, of the population, not negative.
        q01: the 1 % quantile, float64; None where it was never measured.
        q99: the 99 % quantile, float64; None where it was never measured.

    Raises:
        NormStatsError: the arrays are no vectors of one length, or hold a number that is not finite.
    """

    mean: Float[np.ndarray, " d"]
    std: Float[np.ndarray, " d"]
    q01: Float[np.ndarray, " d"] | None = None
    q99: Float[np.ndarray, " d"] | None = None

    def __post_init__(self):
        if (self.q01 is None) != (self.q99 is None):
            raise NormStatsError("q01 and q99: expected both or neither")
        for field in _FIELDS:
            value = getattr(self, field)
            if value is None:
                continue
            value = np.asarray(value, dtype=np.float64)
            if value.ndim != 1 or value.shape != np.shape(self.mean):
                raise NormStatsError(
                    f"{field}: expected a vector as long as mean {np.shape(self.mean)}, found shape {value.shape}"
                )
            if not np.isfinite(value).all():
                raise NormStatsError(f"{field}: dimension {int(np.argmin(np.isfinite(value)))} is not finite")
            object.__setattr__(self, field, value)
        if (self.std < 0).any():
            raise NormStatsError(f"std: dimension {int(np.argmax(self.std < 0))} is negative")
        if self.q01 is not None and self.q99 is not None and (self.q01 > self.q99).any():
            i = int(np.argmax(self.q01 > self.q99))
            raise NormStatsError(f"q01: dimension {i} is {self.q01[i]:g}, above q99's {self.q99[i]:g}")

    @property
    def width(self) -> int:
        """Dimensions."""
        return len(self.mean)

    def cut(self, width: int) -> NormStats:
        """The first `width` dimensions of these."""
        q01, q99 = (None if x is None else x[:width] for x in (self.q01, self.q99))
        return NormStats(self.mean[:width], self.std[:width], q01, q99)


def load_norm_stats(path: str | Path) -> dict[str, NormStats]:
    """Reads `norm_stats.json` as the reference writes it: {"norm_stats": {"state": {"mean": [...], ...}, ...}}.

    Statistics of anything but `state` and `actions` are left alone, whatever their form.

    Returns:
        quantity -> statistics, of those of `state` and `actions` that are there.

    Raises:
        NormStatsError: the file is missing, no JSON, not of that form, or has neither; one line that names the file.
    """
    path = Path(path)
    try:
        return parse_norm_stats(read_json(path))
    except FileNotFoundError:
        raise NormStatsError(f"{path}: no such file; expected the norm_stats.json of a checkpoint") from None
    except JsonError as error:
        raise NormStatsError(str(error)) from None


def parse_norm_stats(content: JsonMap) -> dict[str, NormStats]:
    """The statistics in a map that has them as `norm_stats`, as `load_norm_stats` reads them.

    Raises:
        NormStatsError: they are not there, or not of that form; one line that names the file.
    """
    try:
        entries = content.map("norm_stats")
        if entries is None or not any(quantity in entries for quantity in QUANTITIES):
            found = "no 'norm_stats'" if entries is None else f"{list(entries)}"
            raise NormStatsError(
                f"{content.path}: expected a map 'norm_stats' from 'state' and 'actions' to their statistics, found {found}"
            )
        return {quantity: _parse(content.path, entries, quantity) for quantity in QUANTITIES if quantity in entries}
    except JsonError as error:
        raise NormStatsError(str(error)) from None


def save_norm_stats(path: str | Path, stats: Mapping[str, NormStats]) -> None:
    """Writes `norm_stats.json` in the form that `load_norm_stats` and the reference read; whole or not at all.

    The folder must exist; an existing file is replaced. Numbers survive exactly.
    """
    replace_json(Path(path), {"norm_stats": norm_stats_as_json(stats)})


def norm_stats_as_json(stats: Mapping[str, NormStats]) -> dict[str, dict[str, list[float] | None]]:
    """Statistics as the map that files hold as `norm_stats`; numbers survive exactly."""
    return {
        key: {field: None if (value := getattr(entry, field)) is None else value.tolist() for field in _FIELDS}
        for key, entry in stats.items()
    }


def unit_stats(width: int) -> NormStats:
    """Statistics that leave `width` numbers as they are, but for a margin."""
    return NormStats(np.zeros(width), np.ones(width), -np.ones(width), np.ones(width))


class RunningStats:
    """Mean, deviation and quantiles of vectors that arrive in batches, in memory that does not grow with their number.

    Sums are float64. Quantiles come from a histogram of 5000 bins over the range seen so far; where the range of any
    dimension grows, old counts move to the new bin of their old bin's lower edge. That is the estimator of the reference
    (openpi, shared/normalize.py), kept so that our statistics of a dataset equal the published ones. Its error is about
    a bin's width each time that a range grows; and the first time, it forgets the first batch's lowest bin.
    """

    def __init__(self):
        self.count = 0
        """Vectors so far."""

    def update(self, batch: Float[np.ndarray, "*lead d"]) -> None:
        """Takes in vectors; every axis but the last counts as a batch axis.

        Raises:
            NormStatsError: vectors of another length than before, or a number that is not finite.
        """
        batch = np.asarray(batch, dtype=np.float64)
        batch = batch.reshape(-1, batch.shape[-1])
        if not np.isfinite(batch).all():
            row, column = np.argwhere(~np.isfinite(batch))[0]
            raise NormStatsError(f"vector {self.count + row}, dimension {column}: {batch[row, column]} is not finite")
        if not len(batch):
            return
        low, high = batch.min(axis=0), batch.max(axis=0)
        if self.count == 0:
            self._mean = np.zeros(batch.shape[1])
            self._mean_square = np.zeros(batch.shape[1])
            self._counts = np.zeros((batch.shape[1], _BINS))
            self._low, self._high, self._edges = low, high, _edges(low, high, _EDGE_MARGIN)
        elif batch.shape[1] != len(self._mean):
            raise NormStatsError(f"expected vectors of length {len(self._mean)} as before, found {batch.shape[1]}")
        elif (low < self._low).any() or (high > self._high).any():
            self._widen(np.minimum(low, self._low), np.maximum(high, self._high))
        self.count += len(batch)
        share = len(batch) / self.count
        self._mean += (batch.mean(axis=0) - self._mean) * share
        self._mean_square += ((batch**2).mean(axis=0) - self._mean_square) * share
        for counts, edges, column in zip(self._counts, self._edges, batch.T, strict=True):
            counts += np.histogram(column, bins=edges)[0]

    def result(self) -> NormStats:
        """The statistics so far.

        Raises:
            NormStatsError: fewer than two vectors were seen.
        """
        if self.count < 2:
            raise NormStatsError(f"statistics need at least 2 vectors, found {self.count}")
        std = np.sqrt(np.maximum(0.0, self._mean_square - self._mean**2))
        return NormStats(self._mean.copy(), std, self._quantile(0.01), self._quantile(0.99))

    def _widen(self, low: Float[np.ndarray, " d"], high: Float[np.ndarray, " d"]) -> None:
        new = _edges(low, high, 0.0)
        for i, (old_edges, edges) in enumerate(zip(self._edges, new, strict=True)):
            self._counts[i] = np.histogram(old_edges[:-1], bins=edges, weights=self._counts[i])[0]
        self._low, self._high, self._edges = low, high, new

    def _quantile(self, share: float) -> Float[np.ndarray, " d"]:
        below = np.cumsum(self._counts, axis=1)
        return np.array([e[np.searchsorted(b, share * self.count)] for b, e in zip(below, self._edges, strict=True)])


def _edges(low: Float[np.ndarray, " d"], high: Float[np.ndarray, " d"], margin: float) -> Float[np.ndarray, "d bins"]:
    return np.linspace(low - margin, high + margin, _BINS + 1, axis=1)


def _parse(path: Path, entries: JsonMap, quantity: str) -> NormStats:
    entry = entries.map(quantity)
    if entry is None or "mean" not in entry or "std" not in entry:
        raise NormStatsError(f"{path}: {quantity}: expected a map with mean and std, found {list(entry or ())}")
    fields = {field: entry.numbers(field, or_null=field in _QUANTILES) for field in _FIELDS}
    try:
        return NormStats(**{field: np.array(value) for field, value in fields.items() if value is not None})
    except NormStatsError as error:
        raise NormStatsError(f"{path}: {quantity}: {error}") from None
