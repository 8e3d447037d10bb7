"""Every robot passes `RobotConformance`; what is particular to one stands in its own class."""

import copy

import numpy as np
import pytest
from vlascope_server.model import CAMERAS
from vlascope_server.robots import ROBOTS, Aloha, Droid, Libero, RobotInputError, RobotIO

RNG = np.random.default_rng(0)


class RobotConformance:
    """Inherit, and give a robot and an observation that it understands."""

    robot: RobotIO
    observation: dict

    def test_the_description_is_consistent(self):
        spec = self.robot.spec
        assert spec.cameras
        assert list(spec.cameras) == [slot for slot in CAMERAS if slot in spec.cameras]
        assert spec.state_dim > 0
        assert spec.action_dim > 0
        assert spec.gripper
        assert len(spec.delta_mask) == spec.action_dim
        assert sum(spec.delta_mask) <= spec.state_dim
        assert spec == self.robot.spec

    @pytest.mark.parametrize("pi05", [False, True])
    def test_normalisation_goes_by_family(self, pi05):
        conventions = self.robot.conventions(pi05=pi05)
        assert conventions.normalisation == ("quantile" if pi05 else "zscore")

    def test_a_reading_is_what_the_description_says(self):
        reading = self.robot.read(self.observation)
        spec = self.robot.spec
        assert list(reading.images) == list(spec.cameras)
        for image in reading.images.values():
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[-1] == 3
        assert reading.state.shape == (spec.state_dim,)
        assert reading.state.dtype.kind == "f"
        assert reading.prompt == "pick up the bowl"

    def test_reading_leaves_the_observation_alone(self):
        before = copy.deepcopy(self.observation)
        self.robot.read(self.observation)
        _assert_same(self.observation, before)

    def test_actions_go_there_and_back(self):
        actions = RNG.random((2, 10, self.robot.spec.action_dim))
        before = actions.copy()
        actions.flags.writeable = False
        there = self.robot.actions_to_model(actions)
        np.testing.assert_allclose(self.robot.actions_from_model(there), before, atol=1e-12)
        np.testing.assert_array_equal(actions, before)

    def test_every_missing_key_is_named(self):
        for key in self.observation:
            with pytest.raises(RobotInputError, match="missing; found") as error:
                self.robot.read({k: v for k, v in self.observation.items() if k != key})
            assert error.value.field == key
            assert all(other in str(error.value) for other in self.observation)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [7, None, b"text", ["a"]])
    def test_a_prompt_is_a_string(self, value):
        with pytest.raises(RobotInputError, match="prompt: expected the instruction as a string"):
            self.robot.read(self.observation | {"prompt": value})


def _assert_same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            _assert_same(found[key], value)
    else:
        np.testing.assert_array_equal(found, expected)


def _image(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


class TestLibero(RobotConformance):
    robot = Libero()
    observation = {  # noqa: RUF012 read only
        "observation/image": _image(64, 48, 3),
        "observation/wrist_image": _image(3, 32, 32),
        "observation/state": RNG.random(8).astype(np.float32),
        "prompt": "pick up the bowl",
    }

    def test_channels_first_is_turned(self):
        image = self.observation["observation/wrist_image"]
        reading = self.robot.read(self.observation)
        np.testing.assert_array_equal(reading.images["left_wrist_0_rgb"], image.transpose(1, 2, 0))

    def test_the_state_keeps_its_precision(self):
        assert self.robot.read(self.observation).state.dtype == np.float32
        assert self.robot.read(self.observation | {"observation/state": list(range(8))}).state.dtype == np.float64

    def test_a_prompt_may_come_as_an_array(self):
        assert self.robot.read(self.observation | {"prompt": np.array("open it")}).prompt == "open it"

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("observation/image", np.zeros((64, 64), np.uint8), "expected one RGB image"),
            ("observation/image", np.zeros((64, 64, 4), np.uint8), "found (64, 64, 4)"),
            ("observation/image", np.zeros((1, 64, 64, 3), np.uint8), "found (1, 64, 64, 3)"),
            ("observation/image", np.zeros((0, 64, 3), np.uint8), "found (0, 64, 3)"),
            ("observation/image", np.zeros((3, 64, 3), np.uint8), "channels come first or last"),
            ("observation/image", np.zeros((64, 64, 3), np.int64), "found dtype int64"),
            ("observation/image", np.full((64, 64, 3), 255.0), "must lie in [0, 1], found 255 to 255"),
            ("observation/image", np.full((64, 64, 3), -1.0), "must lie in [0, 1], found -1 to -1"),
            ("observation/image", np.full((64, 64, 3), np.nan), "must lie in [0, 1], found nan to nan"),
            ("observation/image", None, "expected one RGB image"),
            ("observation/state", np.zeros(7), "expected shape (8,), found (7,)"),
            ("observation/state", np.zeros((1, 8)), "expected shape (8,), found (1, 8)"),
            ("observation/state", np.array([0, 0, 0, np.nan, 0, 0, 0, 0]), "number 3 is nan"),
            ("observation/state", np.array([0, 0, 0, 0, 0, 0, 0, -np.inf]), "number 7 is -inf"),
            ("observation/state", ["a"] * 8, "found dtype <U1"),
            ("observation/state", [[1], [1, 2]], "ragged"),
        ],
    )
    def test_a_bad_value_is_one_line_that_names_the_key(self, key, value, message):
        with pytest.raises(RobotInputError) as error:
            self.robot.read(self.observation | {key: value})
        assert error.value.field == key
        assert str(error.value).startswith(f"{key}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_an_observation_is_a_map(self):
        with pytest.raises(RobotInputError, match="observation: expected a map, found list"):
            self.robot.read([1, 2])  # pyright: ignore[reportArgumentType]


class TestDroid(RobotConformance):
    robot = Droid()
    observation = {  # noqa: RUF012 read only
        "observation/exterior_image_1_left": _image(180, 320, 3),
        "observation/wrist_image_left": _image(180, 320, 3),
        "observation/joint_position": np.arange(7.0),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "pick up the bowl",
    }

    def test_the_gripper_follows_the_joints(self):
        np.testing.assert_array_equal(self.robot.read(self.observation).state, [0, 1, 2, 3, 4, 5, 6, 0.5])
        scalar = self.observation | {"observation/gripper_position": 0.5}
        np.testing.assert_array_equal(self.robot.read(scalar).state, [0, 1, 2, 3, 4, 5, 6, 0.5])


class TestAloha(RobotConformance):
    robot = Aloha()
    observation = {  # noqa: RUF012 read only
        "images": {
            "cam_high": _image(3, 48, 64),
            "cam_low": _image(3, 48, 64),
            "cam_left_wrist": _image(3, 48, 64),
            "cam_right_wrist": _image(3, 48, 64),
        },
        "state": RNG.random(14),
        "prompt": "pick up the bowl",
    }

    def test_a_missing_camera_is_named(self):
        images = {"cam_high": self.observation["images"]["cam_high"]}
        with pytest.raises(RobotInputError, match=r"images/cam_left_wrist: missing; found \['cam_high'\]"):
            self.robot.read(self.observation | {"images": images})
        assert list(Aloha(cameras=("base_0_rgb",)).read(self.observation | {"images": images}).images) == ["base_0_rgb"]

    def test_images_are_a_map(self):
        with pytest.raises(RobotInputError, match="images: expected a map, found int"):
            self.robot.read(self.observation | {"images": 3})

    def test_an_unknown_slot_is_refused(self):
        with pytest.raises(RobotInputError, match="aloha has no 'top'"):
            Aloha(cameras=("top",))

    def test_two_joints_of_each_arm_turn_the_other_way(self):
        state = np.arange(1.0, 15.0)
        found = self.robot.read(self.observation | {"state": state}).state
        joints = [i for i in range(14) if i not in (6, 13)]
        np.testing.assert_array_equal(np.flatnonzero(found[joints] != state[joints]), [1, 2, 7, 8])
        np.testing.assert_array_equal(found[[1, 2, 8, 9]], -state[[1, 2, 8, 9]])
        found = self.robot.actions_from_model(state)
        np.testing.assert_array_equal(found[[1, 2, 8, 9]], -state[[1, 2, 8, 9]])

    def test_the_gripper_of_the_state_runs_through_the_linkage(self):
        # by hand: a triangle of horn 22 mm and arm 36 mm, whose third side is the fingers' opening
        opening = np.array([0.25, 0.75])
        side = 0.01844 + opening * (0.058 - 0.01844)
        angle = np.pi / 2 - np.arccos((0.022**2 + side**2 - 0.036**2) / (2 * 0.022 * side))
        state = np.zeros(14)
        state[[6, 13]] = opening
        found = self.robot.read(self.observation | {"state": state}).state
        np.testing.assert_allclose(found[[6, 13]], (angle - 0.5476) / (1.6296 - 0.5476))

    def test_the_gripper_of_the_action_is_an_angle_already(self):
        model = np.zeros((1, 14))
        model[0, [6, 13]] = [1.4910 - 0.5476, -0.6213 - 0.5476]
        np.testing.assert_allclose(self.robot.actions_from_model(model)[0, [6, 13]], [1.0, 0.0], atol=1e-12)

    def test_without_adapting_nothing_is_converted(self):
        robot = Aloha(adapt_to_pi=False)
        actions = RNG.random((5, 14))
        np.testing.assert_array_equal(robot.read(self.observation).state, self.observation["state"])
        np.testing.assert_array_equal(robot.actions_from_model(actions), actions)
        np.testing.assert_array_equal(robot.actions_to_model(actions), actions)


def test_robots_are_listed_by_their_name():
    assert {name: robot.spec.name for name, robot in ROBOTS.items()} == {name: name for name in ROBOTS}
