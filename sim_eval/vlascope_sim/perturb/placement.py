"""Placements drawn at random on a plane: discs that change places or move, and stay clear of each other. Pure functions.

All lengths are in metres; x and y are in the world's frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

Place = tuple[float, float]

_CLEARANCE = 0.010
"""Between two objects."""
_MOVES_TRIED = 200


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What discs have to keep to.

    Attributes:
        boxes: x and y of the low and the high corner of what stays where it is.
        clearance: from these.
        base: x and y of the robot.
        reach: nearest and farthest distance from it.
    """

    boxes: tuple[tuple[Place, Place], ...] = ()
    clearance: float = 0.04
    base: Place = (0.0, 0.0)
    reach: tuple[float, float] = (0.0, np.inf)


def shuffled(names: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Name → whose place it takes: each permutation equally likely, but for the one that leaves all as it is."""
    names = list(names)
    if len(names) < 2:
        return {name: name for name in names}
    while True:
        order = rng.permutation(len(names))
        if (order != np.arange(len(names))).any():
            return {name: names[other] for name, other in zip(names, order, strict=True)}


def moved(
    places: Mapping[str, Place],
    radii: Mapping[str, float],
    distance: float,
    around: Surroundings,
    rng: np.random.Generator,
) -> dict[str, Place] | None:
    """Places moved one after the other, each uniformly over the disc of radius `distance` round where it was.

    Returns:
        The new places, all clear of each other and of the surroundings; None where many draws found none.
    """
    result = dict(places)
    for name, (x, y) in places.items():
        for _ in range(_MOVES_TRIED):
            angle, length = rng.uniform(0, 2 * np.pi), distance * np.sqrt(rng.uniform())
            result[name] = (float(x + length * np.cos(angle)), float(y + length * np.sin(angle)))
            if _fits(name, result, radii, around):
                break
        else:
            return None
    return result


def clear(places: Mapping[str, Place], radii: Mapping[str, float], around: Surroundings) -> bool:
    """Whether no disc touches another or the surroundings, and all are in reach."""
    return all(_fits(name, places, radii, around) for name in places)


def _fits(name: str, places: Mapping[str, Place], radii: Mapping[str, float], around: Surroundings) -> bool:
    here = np.array(places[name])
    nearest, farthest = around.reach
    if not nearest <= np.linalg.norm(here - around.base) <= farthest:
        return False
    for low, high in around.boxes:
        if np.linalg.norm(here - np.clip(here, low, high)) < radii[name] + around.clearance:
            return False
    return all(
        np.linalg.norm(here - place) >= radii[name] + radii[other] + _CLEARANCE
        for other, place in places.items()
        if other != name
    )
