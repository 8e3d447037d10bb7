"""What a batch holds: the same for a seed and a step, with labels, masks and statistics as the data say."""

from __future__ import annotations

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DatasetWriter, LeRobotDataset
from vlascope_server.model import Draws, draw_noise_and_time, flow_errors, flow_loss
from vlascope_server.robots import Conventions, Libero, RobotPipeline
from vlascope_server.robots.arithmetic import normalise
from vlascope_server.training.augment import augment_images
from vlascope_server.training.frames import Frames, choose_episodes
from vlascope_server.training.image_cache import ImageCache
from vlascope_server.training.loader import Loader, rows_of_step
from vlascope_server.training.options import TrainingError
from vlascope_server.training.prepare import prepare
from vlascope_server.training.statistics import carrying, measure

from tests.datasets import foreign
from tests.server.small_models import noisy_params, random_inputs, small_config

from .conftest import CAMERAS, EPISODES, LENGTH, TASKS, episode


def frames(actions: np.ndarray, **changes) -> Frames:
    n = len(actions)
    usual = {
        "episode": np.zeros(n, int), "frame": np.arange(n), "end": np.full(n, n), "state": np.arange(n * 8.0).reshape(n, 8),
        "actions": actions, "followed": np.ones(n, bool), "labelled": np.ones(n, bool), "prompt": np.zeros(n, int),
        "prompts": ("go",),
    }  # fmt: skip
    return Frames(**{**usual, **changes})


def test_chunks_end_with_the_episode():
    made = frames(np.arange(14.0).reshape(7, 2), end=np.array([4, 4, 4, 4, 7, 7, 7]))
    chunks, mask = made.chunks(np.array([2, 6]), 3, "mask")
    assert chunks[..., 0].tolist() == [[4, 6, 6], [12, 12, 12]]
    assert mask.tolist() == [[True, True, False], [True, False, False]]
    assert made.chunks(np.array([2, 6]), 3, "repeat")[1].all()


def test_labels_after_something_else_was_done():
    """The label at that frame still answers what is seen at the chunk's start; those behind it do not."""
    made = frames(np.zeros((6, 2)), followed=np.array([True, True, False, True, True, True]))
    _, mask = made.chunks(np.array([0, 2, 3]), 4, "mask")
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False], [True, True, True, False]]


def test_batches_follow_from_seed_and_step(options, dataset):
    prepared = prepare(options(), None)
    list(prepared.images.fill([*prepared.episodes, *prepared.held_out]))
    settings = {"batch_size": 8, "seed": 3, "state_noise": 0.1, "first_steps": 2, "first_repeats": 3}
    with Loader(prepared.training, 5, options(workers=3, prefetch=4, **settings)) as loader:
        made = [batch for batch, _ in zip(loader, range(6), strict=False)]
        for step, batch in enumerate(made, 5):
            again = Loader(prepared.training, 0, options(workers=1, prefetch=1, **settings)).at(step)
            jax.tree.map(np.testing.assert_array_equal, batch, again)
    every = np.concatenate([rows_of_step(loader.rows, step, 8, 3) for step in range(12)])
    assert sorted(every[: len(loader.rows)].tolist()) == loader.rows.tolist()
    rows, times = np.unique(loader.rows, return_counts=True)
    np.testing.assert_array_equal(rows, prepared.training.rows)
    np.testing.assert_array_equal(times, np.where(prepared.training.frame_numbers < 2, 3, 1))
    assert set(times.tolist()) == {1, 3}
    one = prepared.training.make(np.array([3]), 2, None, 0.0)
    number = prepared.episodes[0]
    columns, images = episode(number)
    np.testing.assert_allclose(
        one.inputs.state[0, :8], normalise(columns["state"][3], prepared.norm_stats["state"], "zscore"), rtol=1e-6
    )
    # 20 x 16 pixels become 14 x 11, centred between black bars
    assert np.unique(one.inputs.images[CAMERAS[0]][0, :, 1:12]).tolist() == [images["image"][3, 0, 0, 0]]
    assert not one.inputs.images[CAMERAS[0]][0, :, 0].any()
    assert one.mask[0].tolist() == [False, True, True, True, False]
    assert not one.mask[1].any()


def test_images_are_the_same_cached_or_not(dataset, tmp_path):
    opened = LeRobotDataset.open(dataset)
    cameras = {"base_0_rgb": "image", "left_wrist_0_rgb": "wrist_image"}
    cached, plain = (ImageCache(opened, cameras, 14, folder) for folder in (tmp_path, None))
    assert cached.missing_bytes([1, 2]) == 2 * 2 * 12 * 14 * 14 * 3
    assert list(cached.fill([1, 2])) == [1, 2]
    assert cached.missing_bytes([1, 2]) == 0
    episodes, numbers = np.array([2, 1, 2]), np.array([0, 5, 11])
    jax.tree.map(np.testing.assert_array_equal, cached.gather(episodes, numbers), plain.gather(episodes, numbers))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_videos_images_are_those_of_the_rows_times_cached_or_not(tmp_path):
    """The camera ran at 28 a second under a dataset of 30: rows and video agree, and so do both ways to train on them."""
    n, times = 20, np.arange(20) / 28
    features = {"image": {"dtype": "video", "shape": (32, 48, 3)}, "action": {"dtype": "float32", "shape": (2,)}}
    with DatasetWriter.create(tmp_path / "it", 30, features) as writer:
        writer.add_episode({"action": np.zeros((n, 2), np.float32)}, {"image": map(foreign.grey, range(n))}, "move")
    foreign.cells(foreign.data_files(tmp_path / "it")[0], "timestamp", lambda _: times.astype(np.float32))
    foreign.film(tmp_path / "it/videos/chunk-000/image/episode_000000.mp4", times)
    opened = LeRobotDataset.open(tmp_path / "it")
    caches = [ImageCache(opened, {"base_0_rgb": "image"}, 14, folder) for folder in (tmp_path / "caches", None)]
    list(caches[0].fill([0]))
    for cache in caches:
        found = cache.gather(np.zeros(n, int), np.arange(n))["base_0_rgb"]
        assert foreign.greys(found[:, 7, 7]) == list(range(n))
    # which frame belongs to a row is in the table: one that changes makes the images anew
    foreign.data_files(tmp_path / "it")[0].touch()
    assert ImageCache(opened, {"base_0_rgb": "image"}, 14, tmp_path / "caches").missing_bytes([0]) == n * 14 * 14 * 3


def test_episodes_without_frames_are_left_out_with_one_warning(options, dataset, tmp_path, caplog):
    emptied = tmp_path / "emptied"
    shutil.copytree(dataset, emptied)
    for number in (1, 4):
        file = foreign.data_files(emptied)[number]
        pq.write_table(pq.ParquetFile(file).read().slice(0, 0), file)
        foreign.line(emptied, "episodes", number, length=0)
    foreign.info(emptied, total_frames=(EPISODES - 2) * LENGTH)
    opened = LeRobotDataset.open(emptied)
    training, held_out = choose_episodes(opened, options(dataset=emptied))
    assert sorted(training + held_out) == [0, 2, 3, 5, 6, 7]
    assert [record.getMessage() for record in caplog.records] == [
        f"{emptied}: left out 2 episodes without frames: 1, 4"
    ]
    prepared = prepare(options(dataset=emptied), None)
    assert len(prepared.training.rows) == len(
        prepare(options(episodes=tuple(training), validation=0.0), None).training.rows
    )
    with pytest.raises(TrainingError, match="no episode is left; allow more"):
        choose_episodes(opened, options(dataset=emptied, episodes=(1, 4)))


def test_an_episode_whose_rows_are_of_another_task_than_it_lists(options, dataset, tmp_path):
    """Chosen by the one and trained on the other, a policy would learn to do something else than it is told."""
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    foreign.line(other, "episodes", 3, tasks=[TASKS[0]])
    with pytest.raises(TrainingError, match="episode 3: its rows are of the task"):
        prepare(options(dataset=other, tasks=(TASKS[0],), validation=0.0), None)


def test_tasks_choose_nothing_where_the_metadata_contradict_themselves(options, dataset, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(dataset, renamed)
    foreign.line(renamed, "episodes", 3, tasks=["fold the towel"])
    opened = LeRobotDataset.open(renamed)
    assert len(choose_episodes(opened, options(dataset=renamed, validation=0.0))[0]) == EPISODES
    with pytest.raises(TrainingError, match="episode 3 lists 'fold the towel'"):
        choose_episodes(opened, options(dataset=renamed, tasks=(TASKS[0],)))


def test_a_cache_holds_no_files_open(dataset, tmp_path):
    """A dataset has more episodes than a process may have files."""
    cache = ImageCache(LeRobotDataset.open(dataset), {"base_0_rgb": "image"}, 14, tmp_path)
    assert len(list(cache.fill(range(EPISODES)))) == EPISODES
    before = os.listdir("/dev/fd")
    kept = cache.gather(np.arange(EPISODES), np.zeros(EPISODES, int))
    assert len(os.listdir("/dev/fd")) == len(before)
    assert len(kept["base_0_rgb"]) == EPISODES


def test_images_of_a_dataset_that_is_gone_are_removed_when_the_next_run_begins(dataset, tmp_path, caplog):
    copies = [shutil.copytree(dataset, tmp_path / name) for name in ("stays", "goes", "unknown")]
    caches = [
        ImageCache(LeRobotDataset.open(copy), {"base_0_rgb": "image"}, 14, tmp_path / "caches") for copy in copies
    ]
    for cache in caches:
        list(cache.fill([0]))
    stays, goes, unknown = (cache.folder for cache in caches if cache.folder)
    assert json.loads((goes / "dataset.json").read_text()) == {"dataset": str(copies[1])}
    (unknown / "dataset.json").unlink()  # as an older version left it
    for copy in copies[1:]:
        shutil.rmtree(copy)
    with caplog.at_level("INFO"):
        list(caches[0].fill([1]))
    assert [path for path in (stays, goes, unknown) if path.is_dir()] == [stays, unknown]
    assert caplog.messages == [f"{copies[1]}: this dataset is gone; its resized images are removed"]


def test_a_cache_grows_with_its_dataset_and_mends_itself(dataset, tmp_path):
    grown = tmp_path / "grown"
    shutil.copytree(dataset, grown)
    cameras = {"base_0_rgb": "image"}

    def cache():
        return ImageCache(LeRobotDataset.open(grown), cameras, 14, tmp_path / "caches")

    one = np.array([1]), np.array([3])
    list(cache().fill([0, 1]))
    before = cache().gather(*one)["base_0_rgb"]
    with DatasetWriter.resume(grown) as writer:
        writer.add_episode(*episode(9), TASKS[0])
    assert cache().missing_bytes([0, 1, EPISODES]) == LENGTH * 14 * 14 * 3
    file = next((tmp_path / "caches").rglob("episode_000001-*.npy"))
    file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(cache().gather(*one)["base_0_rgb"], before)
    table = grown / LeRobotDataset.open(grown).episode(1).file
    table.touch()
    assert cache().missing_bytes([0, 1]) == LENGTH * 14 * 14 * 3
    list(cache().fill([1]))
    assert len(list((tmp_path / "caches").rglob("episode_000001-*.npy"))) == 1


@pytest.mark.parametrize("kind", ["zscore", "quantile"])
def test_dimensions_that_hardly_move(kind):
    """A constant comes back as it was whatever the model says; rare movements do not become enormous."""
    rng = np.random.default_rng(0)
    actions = rng.standard_normal((4000, 7))
    actions[:, 3], actions[:, 4] = 0.1, 0.0
    actions[:, 5] = 0.0
    actions[::1000, 5], actions[1::1000, 5] = 1.0, -1.0
    made, robot, conventions = frames(actions), Libero(), Conventions(kind, delta_actions=False)
    stats, count = measure(made, robot, conventions, 1, "mask")
    assert count == 4000
    assert stats["actions"].std[3] == stats["actions"].std[4] == 0
    assert stats["actions"].mean[3] == 0.1
    pipeline = RobotPipeline(robot, stats, conventions, 10, 14)
    assert np.flatnonzero(carrying(made, pipeline, 1, "mask")).tolist() == [0, 1, 2, 5, 6]
    assert np.abs(normalise(actions, stats["actions"], kind)).max() < 100
    answered = pipeline.robot_actions(rng.standard_normal((50, 10)), made.state[0])
    np.testing.assert_array_equal(answered[:, 3], answered.dtype.type(0.1))
    np.testing.assert_array_equal(answered[:, 4], 0.0)


def test_statistics_of_other_data_are_refused():
    still, moving = frames(np.zeros((50, 7))), frames(np.random.default_rng(0).standard_normal((50, 7)))
    conventions = Conventions("zscore", delta_actions=False)
    stats, _ = measure(still, Libero(), conventions, 1, "mask")
    with pytest.raises(TrainingError, match=r"after normalisation.*--norm-stats dataset"):
        carrying(moving, RobotPipeline(Libero(), stats, conventions, 10, 14), 1, "mask")


def test_augmented_images_stay_images():
    images = {c: jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3), np.uint8)) for c in CAMERAS}
    first, again = (augment_images(jax.random.key(0), images, 0.05)[0] for _ in range(2))
    other, _ = augment_images(jax.random.key(1), images, 0.05)
    for camera, found in first.items():
        assert (found.shape, str(found.dtype)) == ((3, 14, 14, 3), "float32")
        assert float(jnp.max(jnp.abs(found))) <= 1
        np.testing.assert_array_equal(found, again[camera])
        assert np.abs(found - other[camera]).mean() > 0.01


@pytest.mark.parametrize("pi05", [False, True], ids=["pi0", "pi05"])
def test_shared_draws_are_single_ones(pi05):
    """K draws on one pass over the prefix cost what K losses say, with and without keeping activations."""
    config = small_config(pi05=pi05, cameras=CAMERAS)
    params, (observation, actions) = noisy_params(config), random_inputs(config, 2)
    noise, time = draw_noise_and_time(jax.random.key(0), 6, config)
    noise, time = noise.reshape(3, 2, *noise.shape[1:]), time.reshape(3, 2)
    loss = jax.jit(flow_loss, static_argnums=1)
    single = [loss(params, config, observation, actions, noise[k], time[k]) for k in range(3)]
    shared = jax.jit(flow_errors, static_argnums=1, static_argnames="remat")
    for remat in (False, True):
        errors, _ = shared(params, config, observation, actions, Draws(noise, time), remat=remat)
        np.testing.assert_allclose(errors.mean(-1), np.stack(single), rtol=2e-5)


def test_weights_drawn_for_a_checkpoint_are_trained_as_drawn(options):
    like = prepare(options(init="tiny", norm_stats="dataset"), None)
    drawn = prepare(options(init="drawn:3", like="tiny", norm_stats="dataset"), None)
    assert (like.drawn, drawn.drawn) == (False, True)
    assert drawn.config == like.config
    assert any(not np.array_equal(drawn.params[name], like.params[name]) for name in like.params)
