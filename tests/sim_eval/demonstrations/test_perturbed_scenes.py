"""Perturbed scenes stand, repeat, and differ from the plain one just where they are meant to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from vlascope_sim.environment import LiberoEnvironment, load_task
from vlascope_sim.perturb import Perturbation, PerturbationError, apply, reset_perturbed
from vlascope_sim.perturb.scene import Scene

NONE = Perturbation()


@pytest.fixture(scope="module")
def groceries(assets):
    with LiberoEnvironment(load_task("libero_object", 0), assets.folder, render="fast", image_size=64) as environment:
        yield environment


def poses(environment):
    return {name: pose for name, pose in environment.annotations().items() if name.startswith("pose_")}


def tilt(before, after):
    return math.degrees(2 * math.acos(min(1, abs(float(before @ after)))))


@pytest.mark.parametrize("kind", ["move", "shuffle", "both"])
def test_objects_go_elsewhere_upright_and_the_basket_stays(groceries, kind):
    reset_perturbed(groceries, 2, 5, NONE, render=False)
    plain = poses(groceries)
    far = 0.05 if kind != "shuffle" else 0.0
    for seed in (1, 2, 3):
        asked = Perturbation(kind=kind, move_cm=100 * far, seed=seed)
        _, record = reset_perturbed(groceries, 2, 5, asked, render=False)
        now = poses(groceries)
        assert set(record.before) == set(record.after) == {name[5:] for name in plain} - {"basket_1"}
        assert np.linalg.norm((now["pose_basket_1"] - plain["pose_basket_1"])[:3]) < 0.002
        for name, place in record.after.items():
            pose, start = now[f"pose_{name}"], plain[f"pose_{name}"]
            took = record.took_place_of[name]
            np.testing.assert_allclose(pose[:2], place, atol=0.003)
            assert np.linalg.norm(np.subtract(place, record.before[took])) < far + 0.013
            assert abs(pose[2] - start[2]) < 0.006
            assert tilt(pose[3:], start[3:]) < 5
        changed = sum(name != took for name, took in record.took_place_of.items())
        assert changed == 0 if kind == "move" else changed >= 2
        assert json.loads(json.dumps(record.to_map()))["perturbation"] == asked.to_map()


def test_the_same_perturbation_gives_the_same_scene_bit_for_bit(groceries):
    asked = Perturbation(kind="both", move_cm=5, seed=4)
    first, record = reset_perturbed(groceries, 0, 1, asked)
    groceries.step(np.ones(7), render=False)
    again, repeated = reset_perturbed(groceries, 0, 1, asked)
    assert record == repeated
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.state, again.state)
    other, _ = reset_perturbed(groceries, 0, 1, Perturbation(kind="both", move_cm=5, seed=5))
    assert not np.array_equal(first.image, other.image)


def test_without_perturbation_it_is_the_reset_alone(groceries):
    plain = groceries.reset(3, 9)
    seen, record = reset_perturbed(groceries, 3, 9, NONE)
    np.testing.assert_array_equal(plain.image, seen.image)
    np.testing.assert_array_equal(plain.state, seen.state)
    assert record.before == record.after
    assert record.layouts == 0


def test_what_stands_on_or_in_something_is_left_there(assets):
    with LiberoEnvironment(load_task("libero_spatial", 5), assets.folder, render="fast") as environment:
        environment.reset(0, 0, render=False)
        before = poses(environment)
        record = apply(environment, Perturbation(kind="move", move_cm=3, seed=1))
        scene = Scene(environment)
        assert "akita_black_bowl_1" not in record.after  # on the ramekin
        assert "glazed_rim_porcelain_ramekin_1" not in record.after  # under the bowl
        assert "plate_1" in record.after
        shift = scene.position("akita_black_bowl_1") - before["pose_akita_black_bowl_1"][:3]
        assert np.linalg.norm(shift) < 0.012


def test_a_scene_without_room_is_said(groceries, monkeypatch):
    groceries.reset(0, 0, render=False)
    monkeypatch.setattr("vlascope_sim.perturb.displace._REACH", (0.0, 0.01))
    with pytest.raises(PerturbationError, match="task 0 of libero_object: no room found to move 6 objects"):
        apply(groceries, Perturbation(kind="move", move_cm=1, seed=1))
