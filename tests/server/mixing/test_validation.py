"""The file of validation data: what was written comes back, and what is no such file is refused in one line."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile

import jax
import numpy as np
import pytest
import zarr
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.validation import ValidationData, ValidationFacts, write_validation_data
from vlascope_server.model import ModelInputs
from vlascope_server.model.inputs import check_inputs
from vlascope_server.robots import NormStats
from vlascope_server.robots.norm_stats import norm_stats_as_json
from vlascope_server.training.loader import Batch
from zarr.storage import ZipStore

from tests.server.small_models import small_config

CONFIG = small_config(cameras=("base_0_rgb", "left_wrist_0_rgb"))
PART = np.array([0, 0, 1, 1, 0, 1])
EPISODE, FRAME = np.array([2, 2, 3, 3, 5, 8]), np.array([0, 4, 1, 2, 7, 9])


def facts(**changes) -> ValidationFacts:
    stats = NormStats(np.array([0.1, -1 / 3]), np.array([1.0, 2.0]))
    usual = ValidationFacts(
        pi05=False, action_horizon=5, max_token_len=6, cameras=CONFIG.cameras, image_size=14, action_dim=8,
        state_in_prompt=False, vocabulary=64, tokenizer="ab" * 32, robot="libero", normalisation="zscore",
        delta_actions=False, norm_stats={"state": stats, "actions": stats}, norm_stats_count=None,
        carrying=(True,) * 7 + (False,), dataset="demos",
        episodes={"selection": (2, 5), "validation": (3, 8)}, seed=3, options={"frames": 6}, provenance={"versions": {}},
    )  # fmt: skip
    return dataclasses.replace(usual, **changes)


def made(rows: np.ndarray) -> Batch:
    """What frames hold is a function of their row alone."""
    state, actions = (np.stack([np.random.default_rng([r, k]).standard_normal(shape) for r in rows]).astype(np.float32)
                      for k, shape in enumerate([(8,), (5, 8)]))  # fmt: skip
    images = {c: np.stack([np.random.default_rng([r, 7]).integers(0, 256, (14, 14, 3), np.uint8) for r in rows]) + np.uint8(k)
              for k, c in enumerate(CONFIG.cameras)}  # fmt: skip
    inputs = ModelInputs(
        images=images, image_masks={c: np.ones(len(rows), bool) for c in CONFIG.cameras}, state=state,
        prompt=(np.arange(6) * rows[:, None] % 64).astype(np.int32),
        prompt_mask=np.arange(6) < (1 + rows[:, None]),
    )  # fmt: skip
    mask = np.arange(5) < 5 - rows[:, None] % 3
    return Batch(inputs, actions, mask, np.full((len(rows), 1, 2, 2), -1, np.float32))


def write(path, facts=facts(), part=PART, rows=6):  # noqa: B008 frozen
    batches = (made(np.arange(start, min(start + 4, rows))) for start in range(0, rows, 4))
    write_validation_data(path, facts, part, EPISODE, FRAME, batches)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "some.zarr.zip")


def test_what_was_written_comes_back(file):
    data, wanted = ValidationData.open(file), facts()
    assert len(data) == 6
    for field in dataclasses.fields(ValidationFacts):
        if field.name == "norm_stats":
            assert norm_stats_as_json(data.facts.norm_stats) == norm_stats_as_json(wanted.norm_stats)
        else:
            assert getattr(data.facts, field.name) == getattr(wanted, field.name), field.name
    np.testing.assert_array_equal(data.rows("selection"), [0, 1, 4])
    np.testing.assert_array_equal(data.rows("validation"), [2, 3, 5])
    np.testing.assert_array_equal(data.episode, EPISODE)
    np.testing.assert_array_equal(data.frame, FRAME)
    rows = np.array([4, 1, 5])
    batch, expected = data.batch(rows, 3), made(rows)
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert [x.dtype for x in jax.tree.leaves(batch)] == [x.dtype for x in jax.tree.leaves(expected)]


def test_rows_that_fill_a_batch_are_masked(file):
    data = ValidationData.open(file)
    batch, expected = data.batch(np.array([4, 1]), 4), made(np.array([4, 1, 4, 4]))
    check_inputs(batch.inputs, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, batch.inputs, expected.inputs)
    np.testing.assert_array_equal(batch.mask[:2], expected.mask[:2])
    assert batch.mask[0].any()
    assert not batch.mask[2:].any()
    # the arrays in memory are not what was masked
    np.testing.assert_array_equal(data.batch(np.array([4]), 1).mask, expected.mask[:1])
    for rows, size in (([], 2), ([0, 1, 2], 2)):
        with pytest.raises(ValueError, match=f"expected 1 to 2 for a batch of 2, found {len(rows)}"):
            data.batch(np.array(rows, int), size)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pi05": True}, "pi05: it was made for False, and step/9 has True"),
        ({"action_horizon": 7}, "action_horizon: it was made for 5, and step/9 has 7"),
        ({"action_dim": 32}, "action_dim: it was made for 8, and step/9 has 32"),
        ({"vocabulary": 99}, "vocabulary: it was made for 64, and step/9 has 99"),
        ({"cameras": ("base_0_rgb",)}, "cameras: it was made for base_0_rgb, left_wrist_0_rgb, and step/9 has base_0_rgb"),
        ({"vision": dataclasses.replace(CONFIG.vision, image_size=21)}, "image_size: it was made for 14, and step/9 has 21"),
        ({"max_token_len": 5}, "its prompts have 6 tokens, and step/9 has room for 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_both_values(file, changes, said):
    data = ValidationData.open(file)
    data.check_fits(CONFIG, "step/9")
    data.check_fits(dataclasses.replace(CONFIG, max_token_len=48, dtype="bfloat16"), "step/9")
    with pytest.raises(MixingError, match=said) as error:
        data.check_fits(dataclasses.replace(CONFIG, **changes), "step/9")
    assert "\n" not in str(error.value)


def refused(path) -> str:
    with pytest.raises(MixingError) as error:
        ValidationData.open(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "vlascope-server dump-data" in message
    return message


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_files_of_other_kinds_are_refused(file, tmp_path):
    assert "no such file" in refused(tmp_path / "absent.zarr.zip")
    assert "cannot be read" in refused(tmp_path)
    for name, protocol in (("reference.pkl", 0), ("reference.pkl", 4), ("named_otherwise.zarr.zip", 4)):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(), protocol))
        assert "is a pickle, and opening one runs" in refused(tmp_path / name)
    (tmp_path / "text.zarr.zip").write_text("hello")
    assert "found no zip archive" in refused(tmp_path / "text.zarr.zip")
    (tmp_path / "empty.zarr.zip").write_bytes(b"")
    assert "found no zip archive" in refused(tmp_path / "empty.zarr.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "without a Zarr group" in refused(tmp_path / "other.zip")
    with ZipStore(tmp_path / "group.zip", mode="w") as store:
        zarr.create_group(store, attributes={"hello": 1})
    assert "a Zarr group of something else" in refused(tmp_path / "group.zip")


def test_damage_is_said(file, tmp_path):
    whole = file.read_bytes()
    broken = tmp_path / "broken.zarr.zip"
    for length in (10, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:length])
        assert "damaged or cut short" in refused(broken)
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            info = archive.getinfo(name)
            # behind the local header, its name and its extra field
            where = (
                info.header_offset + 30 + sum(whole[info.header_offset + k] for k in (26, 28)) + info.compress_size // 2
            )
            broken.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
            assert name in refused(broken)


def test_a_chunk_that_is_damaged_later_is_said(file, tmp_path):
    path = tmp_path / "later.zarr.zip"
    path.write_bytes(file.read_bytes())
    data = ValidationData.open(path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("images/base_0_rgb/c/1/0/0/0")
    with path.open("r+b") as opened:
        opened.seek(info.header_offset + 30 + len(info.filename) + info.compress_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))
    data.batch(np.array([0]), 1)
    with pytest.raises(MixingError, match="damaged or cut short"):
        data.batch(np.array([1]), 1)


def rewritten(file, path, change):
    """The file with its group's metadata changed."""
    import json

    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "zarr.json":
                metadata = json.loads(content)
                change(metadata["attributes"])
                content = json.dumps(metadata).encode()
            new.writestr(name, content)
    return path


def test_attributes_that_are_wrong_are_named(file, tmp_path):
    def after(**changes) -> str:
        return refused(rewritten(file, tmp_path / "changed.zarr.zip", lambda attributes: attributes.update(changes)))

    assert "schema 2: this version reads 1" in after(schema=2)
    assert "action_horizon: expected a whole number of at least 1, found 'five'" in after(action_horizon="five")
    assert "normalisation: expected one of zscore" in after(normalisation="minmax")
    assert "carrying: expected one truth value for each of 8 action dimensions" in after(carrying=[True])
    assert "carrying: expected a list of bool" in after(carrying=[1] * 8)
    assert "norm_stats.state: expected a map" in after(norm_stats={"state": 3})
    only = {"state": {"mean": [0.0], "std": [1.0]}}
    assert "norm_stats: expected statistics of state and actions" in after(norm_stats=only)
    assert "array prompt: expected int32 [6, 7], found int32 [6, 6]" in after(max_token_len=7)
    assert "array images/right_wrist_0_rgb: expected uint8 [6, 14, 14, 3], found none" in after(
        cameras=["right_wrist_0_rgb"]
    )
    episodes = {"selection": [2, 4], "validation": [3, 8]}
    assert "the attributes name [2, 4], the frames are of [2, 5]" in after(episodes=episodes)
    said = refused(rewritten(file, tmp_path / "less.zarr.zip", lambda attributes: attributes.pop("seed")))
    assert "seed: expected an attribute of validation data, it is missing" in said


def test_an_episode_in_both_parts_is_refused(tmp_path):
    both = facts(episodes={"selection": (2, 3, 5), "validation": (3, 8)})
    write(tmp_path / "both.zarr.zip", both, np.array([0, 0, 0, 1, 0, 1]))
    assert "episode 3 is in both parts" in refused(tmp_path / "both.zarr.zip")


def test_what_could_not_be_written_leaves_nothing(file, tmp_path):
    kept = tmp_path / "kept.zarr.zip"
    kept.write_bytes(file.read_bytes())
    for path in (kept, tmp_path / "new.zarr.zip"):
        with pytest.raises(ValueError, match="expected 6 frames, found 4"):
            write(path, rows=4)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_bytes() == file.read_bytes()
