"""What the model refuses to look at."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import pytest
from vlascope_server.model import ModelInputsError, sample_actions

from tests.server.small_models import noisy_params, random_inputs, small_config

CONFIG = small_config()
BASE, LEFT, RIGHT = CONFIG.cameras


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {"images": {BASE: o.images[BASE]}}, f"images: camera '{LEFT}' is missing; the policy sees"),
        (lambda o: {"image_masks": {}}, f"image_masks: camera '{BASE}' is missing"),
        (
            lambda o: {"images": {**o.images, RIGHT: jnp.zeros((1, 28, 28, 3))}},
            f"images['{RIGHT}']: expected shape (1, 14, 14, 3), found (1, 28, 28, 3)",
        ),
        (
            lambda o: {"images": {**o.images, RIGHT: jnp.zeros((1, 14, 14, 3), jnp.int32)}},
            f"images['{RIGHT}']: expected uint8 or float32, found int32",
        ),
        (lambda o: {"state": jnp.zeros((1, 7))}, "state: expected shape (1, 8), found (1, 7)"),
        (lambda o: {"prompt": jnp.zeros((1, 9), jnp.int32)}, "prompt: expected shape (1, 6), found (1, 9)"),
        (lambda o: {"prompt_mask": jnp.zeros((1, 6), jnp.int32)}, "prompt_mask: expected bool, found int32"),
    ],
)
def test_an_observation_that_does_not_fit_is_named(change, message):
    inputs, noise = random_inputs(CONFIG)
    inputs = dataclasses.replace(inputs, **change(inputs))
    with pytest.raises(ModelInputsError) as caught:
        sample_actions(noisy_params(CONFIG), CONFIG, inputs, noise)
    assert str(caught.value).startswith(message)


def test_cameras_that_the_policy_does_not_have_are_ignored():
    inputs, noise = random_inputs(CONFIG)
    params, two = noisy_params(CONFIG), CONFIG.with_cameras(BASE, RIGHT)
    some = dataclasses.replace(inputs, images={c: inputs.images[c] for c in two.cameras})
    args = {"num_steps": 1}
    actions, _ = sample_actions(params, two, inputs, noise, **args)
    assert jnp.array_equal(actions, sample_actions(params, two, some, noise, **args)[0])
