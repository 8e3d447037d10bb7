"""An episode is whole or absent: after a failure at every single step, after SIGKILL at any moment, and next to others."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DamagedError, DatasetError, DatasetWriter, LeRobotDataset
from vlascope_datasets import files as files_module
from vlascope_datasets import writer as writer_module
from vlascope_datasets.versions import write_v2, write_v3

from tests.datasets.dataset_fixtures import (
    FEATURES,
    FPS,
    TASKS,
    add,
    frames,
    image,
    length,
    level,
    one_line,
    task,
    write,
)

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


def wrap_steps(monkeypatch, wrapper) -> None:
    """Puts a wrapper around every function by which a writer changes the disk."""
    for name in ("move", "append_line", "write_json"):
        wrapped = wrapper(getattr(write_v2, name))
        for module in (write_v2, write_v3):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, wrapped)


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

    wrap_steps(monkeypatch, counted)
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


def rows(path: Path) -> int:
    """In all data files: LeRobot reads every one that it finds."""
    return sum(pq.ParquetFile(table).metadata.num_rows for table in path.glob("data/**/*.parquet"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["ends", "goes on"])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_interrupt_at_every_step(version, goes_on, after, tmp_path, monkeypatch):
    """Ctrl-C before or after the k-th change on disk, for every k: the process lives on and tidies up."""
    steps = {"left": 10**9}

    def counted(function):
        def step(*args, **kwargs):
            steps["left"] -= 1
            if steps["left"] == -1 and not after:
                raise KeyboardInterrupt
            returned = function(*args, **kwargs)
            if steps["left"] == -1:
                raise KeyboardInterrupt
            return returned

        return step

    wrap_steps(monkeypatch, counted)
    for k in range(60):
        path, interrupted = tmp_path / str(k), 0
        steps["left"] = 10**9
        with DatasetWriter.create(path, FPS, FEATURES, version=version, video=True) as writer:
            add(writer, 0)
        writer = DatasetWriter.resume(path)
        steps["left"] = k
        try:
            add(writer, 1)
        except KeyboardInterrupt:
            interrupted = 1
            assert len(writer) in (1, 2)
            if goes_on:
                add(writer, len(writer))
        try:
            writer.close()
        except KeyboardInterrupt:
            interrupted = 2
        steps["left"] = 10**9
        if interrupted == 2:
            DatasetWriter.resume(path).close()
        assert check(path, len(writer)) == len(writer)
        if version == "v3.0":  # of v2.1, the next one writes over what was not counted
            assert rows(path) == sum(map(length, range(len(writer))))
        with DatasetWriter.resume(path) as writer:
            for episode in range(len(writer), 4):
                add(writer, episode)
        assert check(path, 4) == 4
        assert rows(path) == sum(map(length, range(4)))
        if not interrupted:
            break
    assert not interrupted
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


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_until_the_lock_is_held_is_not_overwritten(version, tmp_path, monkeypatch):
    path = write(tmp_path / "it", version, episodes=1)
    locked = files_module.locked

    def late(lock):
        monkeypatch.setattr(writer_module, "locked", locked)
        with DatasetWriter.resume(path) as other:
            add(other, 1)
        return locked(lock)

    monkeypatch.setattr(writer_module, "locked", late)
    with DatasetWriter.resume(path) as writer:
        assert len(writer) == 2
        add(writer, 2)
    assert check(path, 3) == 3


def rewrite_tasks(path, lines, *, end="\n"):
    (path / "meta/tasks.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + end)
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"total_tasks": len(lines)}))


@pytest.mark.parametrize(
    ("indices", "texts", "expected"),
    [
        ((0, 1), TASKS, 2),
        ((0, 7), TASKS, 8),
        ((7, 0), TASKS, 8),
        ((0, 1, 2), (*TASKS, TASKS[0]), 3),
        ((0, 1, 2), (TASKS[0], TASKS[0], TASKS[1]), 3),
        ((0, 1, 9), (*TASKS, "never used"), 10),
    ],
    ids=["usual", "gap", "unordered", "twice", "twice in a row", "unused"],
)
@pytest.mark.parametrize("end", ["\n", ""], ids=["ended", "open"])
def test_tasks_that_others_numbered_stay_as_they_are(indices, texts, expected, end, tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    for episode in range(2):  # the rows name the last index of their text
        file = path / f"data/chunk-000/episode_{episode:06d}.parquet"
        table, index = pq.ParquetFile(file).read(), dict(zip(texts, indices, strict=True))[task(episode)]
        column = pa.array([index] * len(table), pa.int64())
        pq.write_table(table.set_column(table.column_names.index("task_index"), "task_index", column), file)
    lines = [{"task_index": n, "task": text} for n, text in zip(indices, texts, strict=True)]
    rewrite_tasks(path, lines, end=end)
    DatasetWriter.resume(path).close()
    assert [json.loads(line) for line in (path / "meta/tasks.jsonl").read_text().splitlines()] == lines
    with DatasetWriter.resume(path) as writer:
        images = (image(2, frame) for frame in range(length(2)))
        writer.add_episode(frames(2), {"image": images}, "lift the block")
    dataset = LeRobotDataset.open(path)
    assert [dataset.task(episode) for episode in range(3)] == [*TASKS, "lift the block"]
    assert dataset.tasks == dict(zip(indices, texts, strict=True)) | {expected: "lift the block"}
    assert dataset.info.total_tasks == len(dataset.tasks)


def test_lines_without_an_end_go_on(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    for name in ("tasks", "episodes", "episodes_stats"):
        file = path / f"meta/{name}.jsonl"
        file.write_text(file.read_text().removesuffix("\n"))
    with DatasetWriter.resume(path) as writer:
        add(writer, 2)
    assert check(path, 3) == 3


def test_metadata_that_lack_a_line_are_named_and_left_alone(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    file = path / "meta/episodes_stats.jsonl"
    file.write_text(file.read_text().splitlines()[1] + "\n")
    before = file.read_bytes()
    with pytest.raises(DamagedError) as error:
        DatasetWriter.resume(path)
    one_line(error, file, "episode_index 0", "missing")
    assert file.read_bytes() == before


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
