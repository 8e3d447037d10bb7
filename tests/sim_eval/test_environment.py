"""The environment shows what LIBERO shows, and the same episode is the same whatever ran before it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from vlascope_sim.environment import DUMMY_ACTION, LiberoEnvironment, SensorReadings, load_task
from vlascope_sim.errors import SimulationError

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (6, 7))


def roll(environment: LiberoEnvironment, init_state: int, seed: int) -> list[SensorReadings]:
    seen = [environment.reset(init_state, seed)]
    return seen + [environment.step(action)[0] for action in ACTIONS]


def assert_same(left: list[SensorReadings], right: list[SensorReadings]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.state, b.state)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.wrist_image, b.wrist_image)


@pytest.fixture(scope="module")
def full(assets) -> Iterator[LiberoEnvironment]:
    """A scene with fixtures, whose places are in no initial state."""
    with LiberoEnvironment(load_task("libero_goal", 7), assets.folder) as environment:
        yield environment


@pytest.fixture(scope="module")
def fast(assets) -> Iterator[LiberoEnvironment]:
    with LiberoEnvironment(load_task("libero_goal", 7), assets.folder, render="fast") as environment:
        yield environment


def test_observations_are_those_of_libero_turned_by_180_degrees(full):
    from libero.libero.envs import OffScreenRenderEnv

    ours = roll(full, 3, seed=7)
    shipped = OffScreenRenderEnv(bddl_file_name=str(full.task.bddl_file), camera_heights=256, camera_widths=256)
    shipped.seed(7)
    shipped.reset()
    shipped.set_init_state(full.task.init_state(3))
    for _ in range(9):
        shipped.step(list(DUMMY_ACTION))
    theirs = [shipped.step(list(DUMMY_ACTION))[0], *(shipped.step(action)[0] for action in ACTIONS)]
    shipped.close()
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.image, np.rot90(their["agentview_image"], 2))
        np.testing.assert_array_equal(our.wrist_image, np.rot90(their["robot0_eye_in_hand_image"], 2))
        np.testing.assert_array_equal(our.state[:3], their["robot0_eef_pos"])
        np.testing.assert_array_equal(our.state[6:], their["robot0_gripper_qpos"])
        quaternion = their["robot0_eef_quat"]
        angle = np.linalg.norm(our.state[3:6])
        np.testing.assert_allclose(np.sin(angle / 2) * our.state[3:6] / angle, quaternion[:3], atol=1e-12)


def test_a_used_environment_repeats_a_new_one_bit_for_bit(full, assets):
    full.reset(1, seed=3)
    for _ in range(5):
        full.step(np.array([0.5, 0, -0.5, 0, 0, 0, 1]))  # leaves the gripper closed
    used = roll(full, 4, seed=11)
    with LiberoEnvironment(full.task, assets.folder) as new:
        assert_same(used, roll(new, 4, seed=11))


def test_the_seed_places_the_fixtures(full):
    first, second = full.reset(0, seed=1), full.reset(0, seed=2)
    assert not np.array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.image, full.reset(0, seed=1).image)


def test_a_reset_leaves_numpys_global_state_alone(full):
    np.random.seed(5)  # noqa: NPY002
    full.reset(0, seed=1, render=False)
    drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert drawn == np.random.rand()  # noqa: NPY002


def test_fast_rendering_shows_the_same_scene_and_never_changes_it(full, fast):
    slow, quick = roll(full, 2, seed=5), roll(fast, 2, seed=5)
    for a, b in zip(slow, quick, strict=True):
        np.testing.assert_array_equal(a.state, b.state)
        difference = np.abs(np.asarray(a.image, int) - b.image)
        assert 0 < difference.mean() < 8  # another robot's skin and jagged edges, nothing else
        assert (difference.max(axis=2) < 32).mean() > 0.9
    assert_same(quick, roll(fast, 2, seed=5))


def test_steps_without_pictures_take_the_same_way(fast):
    drawn = roll(fast, 6, seed=1)
    fast.reset(6, seed=1, render=False)
    for action, expected in zip(ACTIONS, drawn[1:], strict=True):
        seen, _ = fast.step(action, render=False)
        assert seen.image is None
        np.testing.assert_array_equal(seen.state, expected.state)


def test_annotations_have_fixed_names_and_shapes_and_follow_the_scene(fast):
    fast.reset(0, seed=1, render=False)
    before = fast.annotations()
    for _ in range(10):
        fast.step(np.array([1, 0, 0, 0, 0, 0, 1.0]), render=False)
    after = fast.annotations()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert before["pose_plate_1"].shape == (7,)
    np.testing.assert_allclose(np.linalg.norm(before["pose_plate_1"][3:]), 1)
    assert after["gripper_position"][0] > before["gripper_position"][0] + 0.02
    assert after["gripper_opening"] < before["gripper_opening"]
    assert before["goal_reached"].tolist() == [0.0]  # the stove is off
    assert len(before) <= 64


def test_a_point_is_seen_where_the_picture_shows_it(fast):
    """MuJoCo itself says which object each pixel shows."""
    import mujoco
    from vlascope_sim.perturb.scene import Scene

    fast.reset(0, seed=7)
    scene = Scene(fast)
    renderer = mujoco.Renderer(scene.model, 256, 256)
    renderer.enable_segmentation_rendering()
    for field, camera, names in (
        ("image", "agentview", ("akita_black_bowl_1", "wine_bottle_1", "plate_1")),
        ("wrist_image", "robot0_eye_in_hand", ("cream_cheese_1",)),
    ):
        renderer.update_scene(scene.data, camera)
        geoms = renderer.render()[:, ::-1, 0]  # mirrored, as observations are
        bodies = scene.model.body_rootid[scene.model.geom_bodyid[geoms]]
        for name in names:
            shown = np.argwhere((bodies == scene.model.body_rootid[scene.domain.obj_body_id[name]]) & (geoms >= 0))
            place = fast.seen_at(np.mean(scene.extent(name), axis=0))[field]
            assert np.abs(np.array(place)[::-1] * 256 - shown.mean(axis=0)).max() < 8, name
    renderer.close()
    behind = np.array(scene.data.cam_xpos[scene.model.camera("agentview").id]) * 1.5
    assert fast.seen_at(behind)["image"] is None


def test_reaching_the_goal_is_seen_and_does_not_outlast_a_reset(fast):
    fast.reset(0, seed=1, render=False)
    _, success = fast.step(np.array(DUMMY_ACTION), render=False)
    assert not success
    fast.domain.sim.data.set_joint_qpos("flat_stove_1_button", 1.5)
    _, success = fast.step(np.array(DUMMY_ACTION), render=False)
    assert success
    assert fast.annotations()["goal_reached"].tolist() == [1.0]
    fast.reset(0, seed=1, render=False)
    _, success = fast.step(np.array(DUMMY_ACTION), render=False)
    assert not success


def test_ten_steps_settle_what_one_leaves_falling(fast):
    fast.reset(0, seed=1, settle_steps=1, render=False)
    falling = fast.settle_speed
    fast.reset(0, seed=1, render=False)
    assert fast.settle_speed < 0.05 < falling


def test_only_a_rotation_of_exactly_zero_holds_the_gripper_straight(fast):
    def turned(rotation: float) -> float:
        """How far the gripper has turned after waving about, rad."""
        begun = fast.reset(0, 0, render=False).state[3:6]
        for step in range(80):
            way = 1.0 if step // 10 % 2 else -1.0
            seen, _ = fast.step(np.array([way, way, 0, rotation, rotation, rotation, -1]), render=False)
        return float(np.abs(seen.state[3:6] - begun).max())

    assert turned(0.0) < 0.1
    assert turned(1e-6) > 0.2


@pytest.mark.parametrize("action", [np.zeros(6), np.array([0, 0, 0, 0, 0, 0, np.nan])])
def test_a_wrong_action_is_named(fast, action):
    with pytest.raises(SimulationError, match="expected 7 finite numbers"):
        fast.step(action)


def test_a_folder_without_a_file_says_which(tmp_path):
    with pytest.raises(SimulationError, match=r"libero_floor_base_style\.xml.*task 0 of libero_object"):
        LiberoEnvironment(load_task("libero_object", 0), tmp_path)


def test_a_process_says_nothing_and_ends_cleanly(assets):
    code = f"""
from pathlib import Path
from vlascope_sim.environment import LiberoEnvironment, load_task
environment = LiberoEnvironment(load_task("libero_object", 0), Path({str(assets.folder)!r}), render="fast")
assert environment.reset(0, seed=1).image.any()
environment.close()
environment.close()
import sys
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
