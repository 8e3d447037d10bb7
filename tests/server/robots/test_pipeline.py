import re

import numpy as np
import pytest
from vlascope_server.robots import (
    Aloha,
    Conventions,
    Droid,
    Libero,
    NormStats,
    NormStatsError,
    RobotInputError,
    RobotPipeline,
)

FAMILIES = [("PI0", False), ("PI05", True)]


@pytest.fixture
def stats(golden):
    fields = ("mean", "std", "q01", "q99")
    return {key: NormStats(*(golden[f"norm_stats/{key}/{f}"] for f in fields)) for key in ("state", "actions")}


def _pipeline(stats, pi05, robot=None):
    robot = robot or Libero()
    return RobotPipeline(robot, stats, robot.conventions(pi05=pi05), action_dim=32, image_size=224)


def _observation(golden, **changes):
    # the reference's chain ran on float32
    state = golden["libero_inputs/state_in"].astype(np.float32)
    image = golden["libero_inputs/hwc_uint8/image_in"]
    names = {"image": image, "wrist_image": image, "state": state} | changes
    return {f"observation/{name}": value for name, value in names.items()} | {"prompt": "pick up the bowl"}


@pytest.mark.parametrize(("family", "pi05"), FAMILIES)
def test_the_chain_equals_the_reference(golden, stats, family, pi05):
    pipeline = _pipeline(stats, pi05)
    inputs = pipeline.read(_observation(golden))
    np.testing.assert_array_equal(inputs.state, golden[f"chain/{family}/state"])
    assert inputs.prompt == "pick up the bowl"

    actions = golden["libero_inputs/actions_in"]
    found = pipeline.training_actions(actions, inputs.robot_state)
    np.testing.assert_array_equal(found, golden[f"chain/{family}/actions"])
    np.testing.assert_array_equal(actions, golden["libero_inputs/actions_in"])


@pytest.mark.parametrize(
    ("state", "found"), [([1e300] * 8, "number 0 is 1e+300"), ([0] * 7 + [-3e38], "number 7 is -3e+38")]
)
def test_a_state_that_float32_cannot_hold(golden, stats, state, found):
    small = {**stats, "state": NormStats(*(1e-3 * stats["state"].std[:8] for _ in range(4)))}
    with pytest.raises(RobotInputError, match=re.escape(f"state: {found}; expected numbers that float32 holds")):
        _pipeline(small, False).read(_observation(golden, state=np.array(state, np.float64)))


@pytest.mark.parametrize(("family", "pi05"), FAMILIES)
def test_the_way_back_equals_the_reference(golden, stats, family, pi05):
    pipeline = _pipeline(stats, pi05)
    actions, expected = golden[f"chain/{family}/output_actions_in"], golden[f"chain/{family}/output_actions"]
    found = pipeline.robot_actions(actions, pipeline.read(_observation(golden)).robot_state)
    # what never moved is its constant; the reference leaves a millionth of what the model says in it
    still = stats["actions"].std[: expected.shape[-1]] == 0
    np.testing.assert_allclose(found[:, ~still], expected[:, ~still], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[:, still], expected[:, still], rtol=0, atol=2e-6 * np.abs(actions).max())
    np.testing.assert_array_equal(actions, golden[f"chain/{family}/output_actions_in"])


@pytest.mark.parametrize(
    ("slot", "key", "name"), [("base_0_rgb", "image", "image_in"), ("left_wrist_0_rgb", "wrist_image", "wrist_in")]
)
def test_images_equal_the_reference(golden, stats, rows, slot, key, name):
    image = golden[f"libero_inputs/hwc_uint8/{name}"]
    found = _pipeline(stats, False).read(_observation(golden, **{key: image})).images[slot]
    expected = golden[f"chain/image/{slot}"]
    np.testing.assert_array_equal(rows(found, expected), expected)


@pytest.mark.parametrize("family", ["PI0", "PI05"])
def test_the_cameras_are_those_that_the_reference_does_not_mask(golden, family):
    slots = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    mask = golden[f"libero_inputs/{family}/image_mask"]
    assert tuple(Libero().spec.cameras) == tuple(slot for slot, seen in zip(slots, mask, strict=True) if seen)


def test_what_the_reference_masks_is_black(golden):
    assert not golden["chain/image/right_wrist_0_rgb"].any()


def test_float_images_equal_the_reference(golden):
    image, wrist = (golden[f"libero_inputs/chw_float/{name}_in"] for name in ("image", "wrist"))
    reading = Libero().read(_observation(golden, image=image, wrist_image=wrist))
    for slot in ("base_0_rgb", "left_wrist_0_rgb"):
        np.testing.assert_array_equal(reading.images[slot], golden[f"libero_inputs/chw_float/out/{slot}"])


def test_floats_are_truncated_as_in_the_reference(golden):
    reading = Libero().read(_observation(golden, image=golden["float_to_uint8/in"]))
    np.testing.assert_array_equal(reading.images["base_0_rgb"], golden["float_to_uint8/out"])


def _unit(state, actions):
    widths = {"state": state, "actions": actions}
    return {key: NormStats(np.zeros(n), np.ones(n), -np.ones(n), np.ones(n)) for key, n in widths.items()}


@pytest.mark.parametrize("robot", [Libero(), Aloha(), Droid()], ids=lambda robot: robot.spec.name)
@pytest.mark.parametrize("pi05", [False, True])
def test_robot_actions_invert_training_actions(robot, pi05):
    spec = robot.spec
    pipeline = _pipeline(_unit(spec.state_dim, spec.action_dim), pi05, robot)
    rng = np.random.default_rng(0)
    actions, state = rng.random((10, spec.action_dim)), rng.random(spec.state_dim)
    model = pipeline.training_actions(actions, state)
    assert model.shape == (10, 32)
    assert not model[:, spec.action_dim :].any()
    np.testing.assert_allclose(pipeline.robot_actions(model, state), actions, atol=1e-12)


def test_statistics_padded_to_the_model_give_the_same():
    narrow, padded = _pipeline(_unit(8, 7), True), _pipeline(_unit(32, 32), True)
    rng = np.random.default_rng(0)
    actions, state = rng.random((10, 7)), rng.random(8)
    model = narrow.training_actions(actions, state)
    np.testing.assert_array_equal(padded.training_actions(actions, state), model)
    np.testing.assert_array_equal(padded.robot_actions(model, state), narrow.robot_actions(model, state))


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (_unit(14, 7), "norm stats of state: expected 8 dimensions for libero (or 32, padded), found 14"),
        (_unit(8, 8), "norm stats of actions: expected 7 dimensions for libero (or 32, padded), found 8"),
        ({"state": _unit(8, 7)["state"]}, "norm stats: 'actions' is missing; found ['state']"),
        (
            {k: NormStats(s.mean, s.std) for k, s in _unit(8, 7).items()},
            "quantile normalisation needs q01 and q99",
        ),
    ],
)
def test_statistics_of_another_robot_are_refused(stats, message):
    with pytest.raises(NormStatsError) as error:
        _pipeline(stats, True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_robot_wider_than_the_model_is_refused():
    with pytest.raises(RobotInputError, match="aloha has 14 numbers, and the model only 8"):
        RobotPipeline(Aloha(), _unit(14, 14), Conventions("zscore", delta_actions=False), action_dim=8, image_size=112)


def test_actions_of_another_width_are_refused():
    pipeline = _pipeline(_unit(8, 7), False)
    with pytest.raises(RobotInputError, match=r"actions: expected 32 numbers each, found shape \(10, 7\)"):
        pipeline.robot_actions(np.zeros((10, 7)), np.zeros(8))
    with pytest.raises(RobotInputError, match=r"actions: expected 7 numbers each, found shape \(10, 8\)"):
        pipeline.training_actions(np.zeros((10, 8)), np.zeros(8))
