"""Where told objects and places are seen: labels move with the picture, scores are read as told, a policy learns to look."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_datasets import DatasetWriter
from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.model import init_params
from vlascope_server.training import objective
from vlascope_server.training.augment import shift
from vlascope_server.training.grounding import PARTS, Places, capture_of, locate, seen
from vlascope_server.training.loader import Batch
from vlascope_server.training.options import TrainingError
from vlascope_server.training.prepare import prepare
from vlascope_server.training.trainer import train

from tests.server.small_models import random_inputs, small_config

from .conftest import CAMERAS, FEATURES, TASKS, episode

SIDE = 14
TARGET = {"dtype": "float32", "shape": (2,)}
COLOURS = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
"""Of what each of the two instructions is about."""


@pytest.fixture(scope="module")
def seen_dataset(tmp_path_factory):
    """Two squares, each on one of four patches; the instruction says which one is meant, the other is its place.

    The wrist camera sees neither.
    """
    path = tmp_path_factory.mktemp("data") / "squares"
    picture = {"dtype": "image", "shape": (SIDE, SIDE, 3)}
    features = FEATURES | {
        "image": picture,
        "wrist_image": picture,
        "image_target": TARGET,
        "wrist_image_target": TARGET,
        "image_place": TARGET,
    }
    rng = np.random.default_rng(0)
    with DatasetWriter.create(path, 10, features, "panda") as writer:
        for number in range(24):
            images, targets = np.zeros((8, SIDE, SIDE, 3), np.uint8), np.zeros((2, 8, 2), np.float32)
            for frame in range(8):
                corners = np.stack(np.unravel_index(rng.permutation(4)[:2], (2, 2)), axis=-1)
                for (row, column), colour in zip(corners, COLOURS, strict=True):
                    images[frame, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = colour
                targets[:, frame] = 0.25 + np.stack([corners[number % 2], corners[1 - number % 2]])[:, ::-1] / 2
            columns = {
                "state": rng.standard_normal((8, 8)).astype(np.float32),
                "actions": rng.standard_normal((8, 7)).astype(np.float32),
                "label_mask": np.ones(8, bool),
                "image_target": targets[0],
                "wrist_image_target": np.full((8, 2), -1, np.float32),
                "image_place": targets[1],
            }
            writer.add_episode(columns, {"image": images, "wrist_image": np.zeros_like(images)}, TASKS[number % 2])
    return path


def test_a_policy_learns_to_look_where_it_is_told(options, seen_dataset):
    """Neither image nor instruction alone says which square; the action expert and its weights are not touched."""
    asked = options(
        dataset=seen_dataset, steps=120, flow_samples=0, grounding=1.0, batch_size=16, learning_rate=3e-3,
        validate_every=120, log_every=10, augment=False,
    )  # fmt: skip
    run = train(asked)
    lines = [json.loads(line) for line in (asked.output / "metrics.jsonl").read_text().splitlines()]
    first, held_out = lines[0], lines[-1]
    for found in ("located", "place_located"):
        assert first[found] < 0.8
        assert held_out[f"validation_{found}"] > 0.95
    assert held_out["validation_loss"] == held_out["validation_grounding_loss"] < 1
    assert held_out["validation_flow_loss"] == 0
    found = load_checkpoint(run.checkpoint, dtype="float32").params
    begun = prepare(dataclasses.replace(asked, output=asked.output / "none"), None).params
    for name in ("action_out_proj/kernel", "PaliGemma/llm/layers/mlp_1/linear"):
        np.testing.assert_allclose(found[name], begun[name], atol=1e-2 * float(np.abs(begun[name]).max()))
    assert np.abs(found["PaliGemma/img/head/kernel"] - begun["PaliGemma/img/head/kernel"]).max() > 0.05


def test_both_at_once_add_up(options, seen_dataset):
    asked = options(dataset=seen_dataset, grounding=0.5, validate_every=6)
    train(asked)
    *lines, held_out = [json.loads(line) for line in (asked.output / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["loss"] == pytest.approx(line["flow_loss"] + 0.5 * line["grounding_loss"], rel=1e-5)
        assert line["flow_loss"] > 0.1
    parts = (held_out[f"validation_{name}"] for name in ("flow_loss", "grounding_loss"))
    assert held_out["validation_loss"] == pytest.approx(sum(w * p for w, p in zip((1, 0.5), parts, strict=True)))


def test_labels_move_with_the_picture():
    images = np.zeros((20, 28, 28, 3), np.uint8)
    images[:, 12, 17] = 255
    moved, by = shift(jax.random.key(0), jnp.asarray(images), 0.3)
    assert np.unique(by[:, 0]).size > 4
    place = (np.array([17, 12]) + 0.5) / 28 - np.asarray(by)
    for picture, (left, top) in zip(np.asarray(moved), place, strict=True):
        assert picture[int(top * 28), int(left * 28)].all()


def test_labels_are_of_the_picture_that_the_model_sees(options, tmp_path):
    """20 x 16 pixels become 14 x 11 between black bars, one column of which is to the left."""
    path = tmp_path / "upright"
    features = FEATURES | {"image_target": TARGET, "wrist_image_target": TARGET}
    columns, images = episode(0)
    nowhere = np.full((len(columns["state"]), 2), -1, np.float32)
    with DatasetWriter.create(path, 10, features, "panda") as writer:
        targets = {"image_target": np.broadcast_to(np.float32([1, 0.5]), nowhere.shape), "wrist_image_target": nowhere}
        writer.add_episode(columns | targets, images, TASKS[0])
    prepared = prepare(options(dataset=path, grounding=1.0, validation=0.0), None)
    list(prepared.images.fill([0]))
    batch = prepared.training.make(np.array([0]), 2, None, 0.0)
    np.testing.assert_allclose(batch.targets, [[[[12 / 14, 0.5], [-1, -1]]], [[[-1, -1]] * 2]], atol=1e-6)


def test_labels_go_where_the_step_moves_the_pictures(options, monkeypatch):
    config, told = small_config(cameras=CAMERAS), []
    moves = {CAMERAS[0]: jnp.full((2, 2), 0.25), CAMERAS[1]: jnp.full((2, 2), -0.125)}

    def errors(params, config, part, draws, counted, **_):
        jax.debug.callback(lambda targets: told.append(np.asarray(targets)), part.targets)
        return objective.Errors(jnp.sum(params["w"]), Places(jnp.zeros(2), jnp.zeros(2)))

    monkeypatch.setattr(objective, "augment_images", lambda key, images, by: (images, moves))
    monkeypatch.setattr(objective, "summed_errors", errors)
    recipe = objective.Recipe.of(options(grounding=1.0))
    step = objective.make_step.__wrapped__(config, (True,) * config.action_dim, recipe, remat=False)
    observation, actions = random_inputs(config, 2)
    targets = np.array([[[0.5, 0.75], [0.25, 0.5]], [[-1, -1], [0.5, 0.5]]], np.float32)
    targets = np.stack([targets, targets[::-1]], axis=1)
    batch = Batch(observation, actions, np.ones(actions.shape[:2], bool), targets)
    params = {"w": jnp.ones(3)}
    state = objective.TrainState(params, {"w": jnp.ones(3)}, objective.make_optimiser(recipe).init(params))
    jax.block_until_ready(step(state, {}, batch, np.int32(0), np.float32(0)))
    jax.effects_barrier()
    moved = np.array([[[0.25, 0.5], [0.375, 0.625]], [[-1, -1], [0.625, 0.625]]])
    moved = np.stack([moved, moved[::-1]], axis=1)
    np.testing.assert_allclose(np.concatenate(told), moved, atol=1e-6)


def test_the_best_part_of_a_picture_is_what_the_residual_stream_says():
    """One token's residual stream points at one part's row of one question: that part of that patch is found."""
    config = small_config(cameras=CAMERAS)
    params = dict(init_params(config, 0))
    side = config.vision.image_size // config.vision.patch_size
    row, column, part_row, part_column = 1, 0, 2, 3
    markers = np.eye(config.vlm.width)[: PARTS**2]
    table = np.zeros((config.vocabulary, config.vlm.width), np.float32)
    table[-(PARTS**2) :], table[-2 * PARTS**2 : -(PARTS**2)] = markers, -markers
    params["PaliGemma/llm/embedder/input_embedding"] = jnp.asarray(table)
    hidden = np.zeros((1, 1, 2 * side * side, config.vlm.width), np.float32)
    hidden[0, 0, side * side + row * side + column] = 9 * markers[part_row * PARTS + part_column]
    cells = side * PARTS
    there = (np.array([column * PARTS + part_column, row * PARTS + part_row]) + 0.5) / cells
    for target, found in ((there, 1), (there - np.array([0, 0.4]), 0), (np.array([-1.0, -1.0]), 0)):
        targets = jnp.asarray([[[[-1, -1], target]] * 2], jnp.float32)
        for question, sign in enumerate((1, -1)):
            places = locate(params, config, {"vlm/hidden_states": jnp.asarray(sign * hidden)}, targets)
            assert float(places.found[question]) == found
            assert not found or float(places.found[1 - question]) == 0
            assert (float(places.loss[question]) < 2) == (found == 1 or not seen(targets).any())
            one = locate(params, config, {"vlm/hidden_states": jnp.asarray(sign * hidden)}, targets[:, :1])
            np.testing.assert_allclose(one.loss, places.loss[:1], rtol=1e-6)
    assert capture_of(config).layers == (1,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grounding": 1.0}, r"grounding: .* no column image_target or wrist_image_target of two numbers"),
        ({"flow_samples": 0}, "flow_samples: 0 leaves nothing to train on"),
        ({"grounding": -1.0}, "grounding: expected 0 or more"),
    ],
)
def test_what_cannot_be_grounded_is_said(options, changes, said):
    with pytest.raises(TrainingError, match=said):
        train(options(**changes))
