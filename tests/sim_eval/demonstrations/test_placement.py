"""Layouts are permutations or moves that keep clear of each other, of what stays, and within reach."""

from __future__ import annotations

import json

import numpy as np
import pytest
from vlascope_sim.perturb import Perturbation, PerturbationError
from vlascope_sim.perturb.placement import Surroundings, clear, moved, shuffled

PLACES = {"milk": (0.0, 0.0), "soup": (0.12, 0.0), "butter": (0.0, 0.12), "juice": (0.13, 0.12)}
RADII = {"milk": 0.04, "soup": 0.03, "butter": 0.035, "juice": 0.04}
BASKET = Surroundings(boxes=(((-0.08, 0.2), (0.08, 0.36)),), base=(-0.6, 0.0), reach=(0.3, 0.8))


def test_shuffles_are_permutations_that_change_something():
    rng = np.random.default_rng(0)
    drawn = [shuffled(list(PLACES), rng) for _ in range(400)]
    for took in drawn:
        assert sorted(took.values()) == sorted(took) == sorted(PLACES)
        assert any(name != other for name, other in took.items())
    assert len({tuple(took.values()) for took in drawn}) == 23  # all permutations of four but the identity
    assert shuffled(["milk"], rng) == {"milk": "milk"}


def test_moves_stay_within_their_distance_and_clear_of_everything():
    rng = np.random.default_rng(1)
    shifts = []
    for _ in range(300):
        found = moved(PLACES, RADII, 0.05, BASKET, rng)
        assert found is not None
        assert clear(found, RADII, BASKET)
        for name, place in found.items():
            shifts.append(np.subtract(place, PLACES[name]))
            nearest = np.linalg.norm(np.subtract(place, np.clip(place, (-0.08, 0.2), (0.08, 0.36))))
            assert nearest >= RADII[name] + 0.04
            gaps = [
                np.linalg.norm(np.subtract(place, other)) - RADII[name] - RADII[o]
                for o, other in found.items()
                if o != name
            ]
            assert min(gaps) >= 0.01
    lengths = np.linalg.norm(shifts, axis=1)
    assert 0.045 < lengths.max() <= 0.05
    assert abs(np.mean(shifts, axis=0)[0]) < 0.01


def test_what_does_not_fit_is_seen():
    assert clear(PLACES, RADII, BASKET)
    assert not clear({**PLACES, "soup": (0.06, 0.0)}, RADII, BASKET)  # in the milk
    assert not clear({**PLACES, "butter": (0.0, 0.17)}, RADII, BASKET)  # at the basket's wall
    assert not clear({**PLACES, "juice": (0.25, 0.1)}, RADII, BASKET)  # out of reach
    crowded = {name: (0.001 * k, 0.0) for k, name in enumerate(PLACES)}
    assert moved(crowded, RADII, 0.01, BASKET, np.random.default_rng(0)) is None


def test_a_perturbation_outlives_json():
    asked = Perturbation(kind="both", move_cm=5, seed=3)
    assert Perturbation.from_map(json.loads(json.dumps(asked.to_map()))) == asked
    with pytest.raises(PerturbationError, match="kind, move_cm, seed"):
        Perturbation.from_map({"kind": "move", "cm": 3})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kind": "turn"}, "none, move, shuffle, both"),
        ({"kind": "move"}, "move_cm 0"),
        ({"kind": "move", "move_cm": 31}, "at most 30"),
        ({"kind": "shuffle", "move_cm": 1}, "leave it out"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_a_perturbation_without_sense_is_refused(wrong, named):
    with pytest.raises(PerturbationError, match=named):
        Perturbation(**wrong)
