"""An episode is whole or absent: after a failure at every single step, after SIGKILL at any moment, and next to others."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from vlascope_datasets import DatasetError, DatasetWriter, LeRobotDataset
from vlascope_datasets import files as files_module
from vlascope_datasets.layouts import write_v2, write_v3

from tests.datasets.dataset_fixtures import FEATURES, FPS, TASKS, add, frames, length, level, one_line, write

VERSIONS = ("v2.1", "v3.0")


class ProcessDeathError(Exception):
    """Stands for the end of the process: what follows it never happens."""


def check(path: Path, at_least: int) -> int:
    """Every episode of the dataset is what was written; returns how many there are."""
    dataset = LeRobotDataset.open(path)
    assert len(dataset.episodes) >= at_least
    for episode in range(len(dataset.episodes)):
        np.testing.assert_array_equal(dataset.frames(episode)["action"], frames(episode)["action"])
        assert dataset.task(episode) == TASKS[episode % 2]
        assert dataset.images(episode, "image").shape[0] == length(episode)
    if dataset.episodes:
        assert dataset.statistics["index"]["max"].tolist() == [len(dataset) - 1]
        assert dataset.statistics["action"]["count"].tolist() == [len(dataset)]
    return len(dataset.episodes)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failure_at_every_step(version, tmp_path, monkeypatch):
    """The writer dies before its k-th change on disk, for every k until it gets through; each time another takes over."""
    steps = {"left": 0, "dead": False}

    def counted(function):
        def step(*args, **kwargs):
            if steps["left"] == 0:
                steps["dead"] = True
                raise ProcessDeathError
            steps["left"] -= 1
            return function(*args, **kwargs)

        return step

    for name in ("move", "append_line", "write_json"):
        wrapped = counted(getattr(files_module, name))
        for module in (write_v2, write_v3):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, wrapped)
    cut_back = write_v2.WriterV2._cut_back
    # who is dead does not tidy up either
    monkeypatch.setattr(write_v2.WriterV2, "_cut_back", lambda self: None if steps["dead"] else cut_back(self))
    for k in range(60):
        path = tmp_path / str(k)
        steps["left"] = 10**9
        with DatasetWriter.create(path, FPS, FEATURES, version=version, video=True) as writer:
            add(writer, 0)
        steps["left"] = k
        writer = DatasetWriter.resume(path)
        committed, through = 1, False
        try:
            add(writer, 1)
            committed = 2 if version == "v2.1" else 1
            writer.close()
            through = True
        except ProcessDeathError:
            writer._exit.close()  # a dead process holds no lock
        check(path, 2 if through else committed)
        if through:
            break
        steps["left"] = 10**9
        with DatasetWriter.resume(path) as writer:
            assert len(writer) >= committed
            for episode in range(len(writer), 3):
                add(writer, episode)
        assert check(path, 3) == 3
        assert not (path / ".staging").exists()
    assert through
    assert k >= 6


@pytest.mark.parametrize("version", VERSIONS)
def test_kills_at_any_moment(version, tmp_path):
    rng, acknowledged = random.Random(version), -1  # noqa: S311
    path = tmp_path / "it"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.datasets.writer_victim", str(path), version],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout
        acknowledged = max(acknowledged, int(process.stdout.readline()))
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        for line in process.communicate()[0].splitlines():
            with contextlib.suppress(ValueError):
                acknowledged = max(acknowledged, int(line))
    DatasetWriter.resume(path).close()
    assert check(path, acknowledged + 1) in (acknowledged + 1, acknowledged + 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_one_process_writes(version, tmp_path):
    writer = DatasetWriter.create(tmp_path / "it", FPS, FEATURES, version=version)
    with pytest.raises(DatasetError) as error:
        DatasetWriter.resume(tmp_path / "it")
    one_line(error, tmp_path / "it", "another process")
    writer.close()


def test_staged_episodes_of_v30_are_not_lost_and_not_shown(tmp_path):
    writer = DatasetWriter.create(tmp_path / "it", FPS, FEATURES, version="v3.0", video=True)
    add(writer, 0)
    writer._exit.close()
    with pytest.raises(DatasetError) as error:
        LeRobotDataset.open(tmp_path / "it")
    one_line(error, "resume")
    DatasetWriter.resume(tmp_path / "it").close()
    assert check(tmp_path / "it", 1) == 1
    info = LeRobotDataset.open(tmp_path / "it").info
    assert info.features["image"]["info"]["video.codec"] == "h264"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f, i: f.pop("state"), ("columns", "state", "missing")),
        (lambda f, i: f.update(extra=f["state"]), ("columns", "extra", "unknown")),
        (lambda f, i: i.clear(), ("cameras", "image", "missing")),
        (lambda f, i: f.update(state=f["state"][:, :2]), ("state", "(5, 2)", "3")),
        (lambda f, i: f.update(state=f["state"][:-1]), ("state 4", "action 5")),
        (lambda f, i: f.update(action=f["action"].astype(complex)), ("action", "complex", "float32")),
        (lambda f, i: f["state"].__setitem__((3, 1), np.nan), ("state", "frame 3", "finite")),
        (lambda f, i: i.update(image=i["image"][:4]), ("image", "expected 5", "found 4")),
        (lambda f, i: i.update(image=np.concatenate([i["image"]] * 2)), ("image", "expected 5", "more")),
        (lambda f, i: i.update(image=i["image"][:, :8]), ("image", "frame 0", "(8, 48, 3)")),
        (lambda f, i: i.update(image=i["image"] / 255), ("image", "uint8", "float64")),
    ],
)
def test_a_wrong_episode_leaves_nothing(version, spoil, said, tmp_path):
    path = write(tmp_path / "it", version, video=True, episodes=1)
    given, images = frames(0), {"image": np.stack([np.full((32, 48, 3), level(0, n), np.uint8) for n in range(5)])}
    spoil(given, images)
    with DatasetWriter.resume(path) as writer:
        with pytest.raises(DatasetError) as error:
            writer.add_episode(given, images, "push")
        one_line(error, *said)
        assert len(writer) == 1
        add(writer, 1)
    assert check(path, 2) == 2


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"index": {"dtype": "int64", "shape": (1,)}}, ("index", "leave it out")),
        ({"a/b": {"dtype": "int64", "shape": (1,)}}, ("a/b", "slash")),
        ({"a": {"dtype": "float31", "shape": (1,)}}, ("feature a", "float31")),
        ({"a": {"dtype": "float32"}}, ("feature a", "shape")),
        ({"a": {"dtype": "image", "shape": (3, 32, 32)}}, ("feature a", "height, width, 3")),
        ({"a": {"dtype": "video", "shape": (31, 32, 3)}}, ("feature a", "even", "31x32")),
    ],
)
def test_features_without_a_place_in_the_format(features, said, tmp_path):
    with pytest.raises(DatasetError) as error:
        DatasetWriter.create(tmp_path / "it", FPS, features)
    one_line(error, *said)
    assert not (tmp_path / "it").exists()


def test_create_refuses_what_is_there(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=1)
    with pytest.raises(DatasetError) as error:
        DatasetWriter.create(path, FPS, FEATURES)
    one_line(error, path, "not empty")
    with pytest.raises(DatasetError) as error:
        DatasetWriter.create(tmp_path / "new", FPS, FEATURES, version="v2.0")
    one_line(error, "v2.0", "v2.1 or v3.0")
    writer = DatasetWriter.resume(path)
    writer.close()
    with pytest.raises(DatasetError) as error:
        add(writer, 1)
    one_line(error, "closed", "resume")
