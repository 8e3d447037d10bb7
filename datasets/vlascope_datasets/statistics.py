"""Statistics of features: of one episode, and of many put together.

The formulas are LeRobot's (`compute_stats`): population standard deviation; cameras over sampled, thinned-out images, in
[0, 1], shape (3, 1, 1); datasets from episodes by the parallel variance formula (Chan, Golub, LeVeque 1983), and their
quantiles, which no formula gives, by the episodes' mean weighted by count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Statistics = dict[str, dict[str, np.ndarray]]

# what pi05 is normalised by, among others
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

_THIN_ABOVE, _THIN_TO = 300, 150


def column_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """`min`, `max`, `mean`, `std` and `QUANTILES` over the first axis, each of one frame's shape ((1,) for scalars).

    Args:
        values: [n, ...] numbers, n at least 1.

    Returns:
        Them by name, and `count` (1,).
    """
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    wide = values.astype(np.float64)
    if values.dtype == np.uint64:  # neither JSON's readers nor Arrow's integers reach that far
        values = wide
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, np.quantile(wide, list(QUANTILES.values()), axis=0), strict=True)),
    }


def sampled_frames(length: int) -> np.ndarray:
    """Which frames of an episode its cameras' statistics are taken from: all up to 100, then about length ** 0.75."""
    count = max(min(100, length), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, count)).astype(np.int64)


class ImageStatistics:
    """Statistics of a camera, image by image, so that an episode never has to be in memory."""

    def __init__(self) -> None:
        self._count = 0
        # 256 grey levels a channel hold everything that is asked for, exactly
        self._levels = np.zeros((3, 256), np.int64)

    def add(self, image: np.ndarray) -> None:
        """Takes in an image, uint8 [H, W, 3]; large ones are thinned out to about 150 pixels on the longer side."""
        height, width = image.shape[:2]
        if max(height, width) >= _THIN_ABOVE:
            step = max(height, width) // _THIN_TO
            image = image[::step, ::step]
        self._count += 1
        for channel in range(3):
            self._levels[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)

    def result(self) -> dict[str, np.ndarray]:
        """In [0, 1], shape (3, 1, 1); `count` is of images."""
        level = np.arange(256) / 255
        share = self._levels / self._levels.sum(axis=1, keepdims=True)
        mean = share @ level
        present = self._levels > 0
        values = {
            "min": level[present.argmax(axis=1)],
            "max": level[255 - present[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt((share * (level - mean[:, None]) ** 2).sum(axis=1)),
            **{name: self._quantile(share) for name, share in QUANTILES.items()},
        }
        return {name: value.reshape(3, 1, 1) for name, value in values.items()} | {"count": np.array([self._count])}

    def _quantile(self, share: float) -> np.ndarray:
        """Of each channel, [3], in [0, 1]: between two pixels as `np.quantile` has it."""
        found = []
        for counts in self._levels:
            place = share * (counts.sum() - 1)
            below, above = np.searchsorted(counts.cumsum(), np.floor([place, place + 1]), side="right")
            fraction = place % 1
            found.append((below + fraction * (above - below if fraction else 0)) / 255)
        return np.array(found)


def aggregate(parts: Iterable[Statistics]) -> Statistics:
    """Statistics of everything that `parts` are statistics of, feature by feature.

    A feature of which one of the parts lacks a statistic, or has it in another shape, has none of the whole.
    """
    by_key: dict[str, list[dict[str, np.ndarray]]] = {}
    for part in parts:
        for key, values in part.items():
            by_key.setdefault(key, []).append(values)
    return {key: _aggregate(values) for key, values in by_key.items() if go_together(values)}


def go_together(parts: list[dict[str, np.ndarray]], shape: tuple[int, ...] | None = None) -> bool:
    """Whether statistics of one feature are whole and of one shape; of `shape` where it is given."""
    needed = ("min", "max", "mean", "std")
    if not all({*needed, "count"} <= set(part) and np.asarray(part["count"]).size for part in parts):
        return False
    shapes = {np.shape(part[name]) for part in parts for name in needed}
    return len(shapes) == 1 and shape in (None, *shapes)


def _aggregate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    means = np.stack([np.asarray(part["mean"], np.float64) for part in parts])
    variances = np.stack([np.asarray(part["std"], np.float64) ** 2 for part in parts])
    counts = np.array([int(np.asarray(part["count"]).reshape(-1)[0]) for part in parts], np.float64)
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(axis=0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(axis=0)
    # an episode without a quantile (older writers keep none) leaves nothing to be said of the whole
    quantiles = [
        name for name in QUANTILES if all(name in part and np.shape(part[name]) == mean.shape for part in parts)
    ]
    return {
        "min": np.min(np.stack([part["min"] for part in parts]), axis=0),
        "max": np.max(np.stack([part["max"] for part in parts]), axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
        **{name: (weights * np.stack([part[name] for part in parts])).sum(axis=0) for name in quantiles},
    }


def to_lists(statistics: Statistics) -> dict[str, dict[str, Any]]:
    """For JSON."""
    return {key: {name: np.asarray(v).tolist() for name, v in values.items()} for key, values in statistics.items()}


def to_arrays(statistics: Mapping[str, Mapping[str, Any]]) -> Statistics:
    """From JSON."""
    return {key: {name: np.asarray(v) for name, v in values.items()} for key, values in statistics.items()}
