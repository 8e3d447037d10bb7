"""What is written is what is read, and is where LeRobot's published format has it: by pyarrow and PyAV alone."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_datasets import DatasetWriter, LeRobotDataset
from vlascope_datasets.statistics import aggregate, column_statistics

from tests.datasets.dataset_fixtures import (
    FEATURES,
    FPS,
    HEIGHT,
    TASKS,
    WIDTH,
    add,
    frames,
    image,
    length,
    level,
    task,
    write,
)

EPISODES = 4
TOTAL = sum(length(episode) for episode in range(EPISODES))
INDEX = {
    "timestamp": "float",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@pytest.fixture(scope="class", params=["image", "video"])
def dataset(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dataset") / "it"
    return LeRobotDataset.open(write(path, request.cls.version, video=request.param == "video", episodes=EPISODES))


class Conformance:
    """Every version and both ways to store images."""

    version: str

    def table(self, dataset, episode):
        """An episode's rows, by pyarrow alone."""
        raise NotImplementedError

    def video(self, dataset, episode) -> tuple[Path, float]:
        """An episode's video and the second at which it begins."""
        raise NotImplementedError

    def statistics(self, dataset, episode) -> dict:
        raise NotImplementedError

    def tasks(self, dataset) -> dict:
        raise NotImplementedError

    def test_info_is_as_published(self, dataset):
        info = json.loads((dataset.root / "meta/info.json").read_text())
        assert info["codebase_version"] == self.version
        assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (EPISODES, TOTAL, 2)
        assert (info["fps"], info["robot_type"], info["splits"]) == (FPS, "panda", {"train": f"0:{EPISODES}"})
        camera = info["features"]["image"]
        assert camera["shape"] == [HEIGHT, WIDTH, 3]
        assert camera["names"] == ["height", "width", "channel"]
        if camera["dtype"] == "video":
            assert camera["info"]["video.codec"] == "h264"
            assert camera["info"]["video.pix_fmt"] == "yuv420p"
            assert camera["info"]["video.fps"] == FPS
        for key in INDEX:
            assert info["features"][key]["shape"] == [1]

    def test_pyarrow_reads_the_columns(self, dataset):
        first = 0
        for episode in range(EPISODES):
            table, expected = self.table(dataset, episode), frames(episode)
            n = length(episode)
            assert table["frame_index"].to_pylist() == list(range(n))
            assert table["index"].to_pylist() == list(range(first, first + n))
            assert set(table["episode_index"].to_pylist()) == {episode}
            assert {self.tasks(dataset)[k] for k in table["task_index"].to_pylist()} == {task(episode)}
            np.testing.assert_array_equal(np.array(table["timestamp"], np.float32), np.float32(np.arange(n) / FPS))
            for key in ("state", "action", "reward", "done", "pose", "note"):
                assert table[key].to_pylist() == expected[key].tolist(), key
            first += n

    def test_types_are_what_hugging_face_datasets_expects(self, dataset):
        schema = self.table(dataset, 0).schema
        types = {name: str(schema.field(name).type) for name in schema.names}
        assert {key: types[key] for key in INDEX} == INDEX
        assert types["state"].startswith("fixed_size_list<")
        assert types["state"].endswith("float>[3]")
        assert (types["reward"], types["done"], types["note"]) == ("float", "bool", "string")
        assert types["pose"].count("list<") == 2
        described = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(described) == schema.names
        assert described["action"] == {
            "feature": {"dtype": "float32", "_type": "Value"},
            "length": 2,
            "_type": "Sequence",
        }
        assert described["pose"] == {"shape": [2, 3], "dtype": "float64", "_type": "Array2D"}
        assert described["reward"] == {"dtype": "float32", "_type": "Value"}
        if "image" in described:
            assert described["image"] == {"_type": "Image"}
            assert types["image"] == "struct<bytes: binary, path: string>"

    def test_images_are_where_the_format_has_them(self, dataset):
        for episode in range(EPISODES):
            if "image" in dataset.info.image_keys:
                cells = self.table(dataset, episode)["image"].to_pylist()
                seen = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells]
                np.testing.assert_array_equal(seen, [image(episode, k) for k in range(length(episode))])
            else:
                path, start = self.video(dataset, episode)
                with av.open(str(path)) as container:
                    stream = container.streams.video[0]
                    decoded = {round(f.time * FPS): f.to_ndarray(format="rgb24") for f in container.decode(stream)}
                    assert (stream.codec_context.name, stream.average_rate) == ("h264", FPS)
                for frame in range(length(episode)):
                    found = decoded[round(start * FPS) + frame]
                    assert abs(np.median(found) - level(episode, frame)) <= 3

    def test_videos_have_a_keyframe_every_other_frame(self, dataset):
        if dataset.info.video_keys:
            path, _ = self.video(dataset, 0)
            with av.open(str(path)) as container:
                keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
            begins = np.cumsum([0] + [length(e) for e in range(EPISODES)])
            assert all(keys[n] for n in range(0, length(0), 2))
            assert self.version == "v2.1" or all(keys[n] for n in begins[:-1])

    def test_our_reader_returns_what_was_written(self, dataset):
        assert len(dataset) == TOTAL
        assert [episode.length for episode in dataset.episodes] == [length(e) for e in range(EPISODES)]
        assert [episode.tasks for episode in dataset.episodes] == [(task(e),) for e in range(EPISODES)]
        assert dataset.tasks == dict(enumerate(TASKS))
        for episode in range(EPISODES):
            read = dataset.frames(episode)
            for key, expected in frames(episode).items():
                np.testing.assert_array_equal(read[key], expected, err_msg=key)
                assert read[key].dtype == expected.dtype
            assert dataset.task(episode, length(episode) - 1) == task(episode)
            seen = dataset.images(episode, "image")
            assert seen.shape == (length(episode), HEIGHT, WIDTH, 3)
            for frame in range(length(episode)):
                assert abs(int(np.median(seen[frame])) - level(episode, frame)) <= 3
                assert seen[frame, 2, 4 * frame + 4].min() > 200  # the moving block is where it belongs

    def test_random_access_is_to_exactly_that_frame(self, dataset):
        whole = [dataset.images(episode, "image") for episode in range(EPISODES)]
        rng = np.random.default_rng(0)
        for index in rng.integers(TOTAL, size=12):
            episode, frame = dataset.locate(int(index))
            assert dataset.frames(episode)["index"][frame] == index
            np.testing.assert_array_equal(dataset.image(episode, frame, "image"), whole[episode][frame])
        np.testing.assert_array_equal(dataset.images(2, "image", [4, 0, 4, 1]), whole[2][[4, 0, 4, 1]])
        assert dataset.images(0, "image", []).shape == (0, HEIGHT, WIDTH, 3)

    def test_chunks_repeat_the_last_action(self, dataset):
        chunk, real = dataset.chunk(1, 4, 4)
        np.testing.assert_array_equal(chunk, [[104, 104.5], [105, 105.5], [105, 105.5], [105, 105.5]])
        assert real.tolist() == [True, True, False, False]
        whole, real = dataset.chunk(0, 1, 3)
        np.testing.assert_array_equal(whole, frames(0)["action"][1:4])
        assert real.all()

    def test_statistics_of_an_episode(self, dataset):
        kept, n = self.statistics(dataset, 2), length(2)
        state = frames(2)["state"].astype(np.float64)
        np.testing.assert_allclose(kept["state"]["mean"], state.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(kept["state"]["std"], state.std(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(kept["state"]["max"], state.max(axis=0))
        assert kept["state"]["count"] == [n]
        assert kept["reward"]["mean"] == [pytest.approx(1 / n)]
        assert kept["episode_index"]["min"] == kept["episode_index"]["max"] == [2]
        assert kept["index"]["min"] == [length(0) + length(1)]
        assert "note" not in kept
        pixels = np.stack([image(2, frame) for frame in range(n)]) / 255
        assert np.shape(kept["image"]["mean"]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(kept["image"]["mean"]), pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(np.ravel(kept["image"]["std"]), pixels.std(axis=(0, 1, 2)), rtol=1e-6)
        assert kept["image"]["count"] == [n]

    def test_statistics_of_the_dataset_are_those_of_all_frames(self, dataset):
        actions = np.concatenate([frames(episode)["action"] for episode in range(EPISODES)]).astype(np.float64)
        kept = dataset.statistics["action"]
        np.testing.assert_allclose(kept["mean"], actions.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(kept["std"], actions.std(axis=0), rtol=1e-6)
        np.testing.assert_array_equal([kept["min"], kept["max"]], [actions.min(axis=0), actions.max(axis=0)])
        assert kept["count"].tolist() == [TOTAL]
        assert dataset.statistics["index"]["max"].tolist() == [TOTAL - 1]

    def test_quantiles(self, dataset):
        shares = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
        kept = [dataset.episode_statistics()[episode] for episode in range(EPISODES)]
        for name, share in shares.items():
            for episode in range(EPISODES):
                state = frames(episode)["state"].astype(np.float64)
                np.testing.assert_allclose(kept[episode]["state"][name], np.quantile(state, share, axis=0), rtol=1e-9)
            pixels = np.stack([image(2, frame) for frame in range(length(2))]) / 255
            assert kept[2]["image"][name].shape == (3, 1, 1)
            np.testing.assert_allclose(
                np.ravel(kept[2]["image"][name]), np.quantile(pixels, share, axis=(0, 1, 2)), rtol=1e-9
            )
            for key in ("state", "reward", "pose", "image"):
                lengths = [length(episode) for episode in range(EPISODES)]
                mean = np.average([each[key][name] for each in kept], axis=0, weights=lengths)
                np.testing.assert_allclose(dataset.statistics[key][name], mean, rtol=1e-9)

    def test_it_can_be_sent_to_a_worker(self, dataset):
        again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
        np.testing.assert_array_equal(again.image(3, 2, "image"), dataset.image(3, 2, "image"))

    def test_a_closed_dataset_goes_on_where_it_ended(self, tmp_path):
        path = write(tmp_path / "it", self.version, video=True, episodes=2)
        with DatasetWriter.resume(path) as writer:
            assert len(writer) == 2
            assert [add(writer, episode) for episode in (2, 3)] == [2, 3]
        dataset = LeRobotDataset.open(path)
        assert len(dataset) == TOTAL
        assert dataset.tasks == dict(enumerate(TASKS))
        for episode in range(EPISODES):
            np.testing.assert_array_equal(dataset.frames(episode)["action"], frames(episode)["action"])
            assert abs(int(np.median(dataset.image(episode, 1, "image"))) - level(episode, 1)) <= 3
        assert dataset.statistics["index"]["max"].tolist() == [TOTAL - 1]
        assert not (path / ".staging").exists()

    def test_tasks_may_change_within_an_episode(self, tmp_path):
        features = {"action": FEATURES["action"]}
        with DatasetWriter.create(tmp_path / "it", FPS, features, version=self.version) as writer:
            writer.add_episode({"action": np.zeros((3, 2), np.float32)}, task=["reach", "reach", "grasp"])
        dataset = LeRobotDataset.open(tmp_path / "it")
        assert [dataset.task(0, frame) for frame in range(3)] == ["reach", "reach", "grasp"]
        assert dataset.episodes[0].tasks == ("reach", "grasp")

    def test_no_episodes_is_a_dataset(self, tmp_path):
        dataset = LeRobotDataset.open(write(tmp_path / "it", self.version, episodes=0))
        assert (len(dataset), dataset.episodes) == (0, ())


class TestV21(Conformance):
    version = "v2.1"

    def table(self, dataset, episode):
        return pq.ParquetFile(dataset.root / f"data/chunk-000/episode_{episode:06d}.parquet").read()

    def video(self, dataset, episode):
        return dataset.root / f"videos/chunk-000/image/episode_{episode:06d}.mp4", 0.0

    def lines(self, dataset, name):
        return [json.loads(line) for line in (dataset.root / "meta" / name).read_text().splitlines()]

    def statistics(self, dataset, episode):
        line = self.lines(dataset, "episodes_stats.jsonl")[episode]
        assert line["episode_index"] == episode
        return line["stats"]

    def tasks(self, dataset):
        return {line["task_index"]: line["task"] for line in self.lines(dataset, "tasks.jsonl")}

    def test_episodes_are_lines(self, dataset):
        assert self.lines(dataset, "episodes.jsonl") == [
            {"episode_index": e, "tasks": [task(e)], "length": length(e)} for e in range(EPISODES)
        ]
        info = json.loads((dataset.root / "meta/info.json").read_text())
        assert info["total_videos"] == (EPISODES if dataset.info.video_keys else 0)
        assert info["total_chunks"] == 1

    def test_chunks_hold_chunks_size_episodes(self, tmp_path):
        path = write(tmp_path / "it", "v2.1", video=True, episodes=3, chunks_size=2)
        assert (path / "data/chunk-001/episode_000002.parquet").is_file()
        assert (path / "videos/chunk-001/image/episode_000002.mp4").is_file()
        assert LeRobotDataset.open(path).images(2, "image").shape[0] == length(2)

    def test_v20_has_statistics_of_the_whole_only(self, tmp_path):
        path = write(tmp_path / "it", "v2.1", episodes=2)
        expected = LeRobotDataset.open(path).statistics
        plain = {key: {name: v.tolist() for name, v in values.items()} for key, values in expected.items()}
        (path / "meta/stats.json").write_text(json.dumps(plain))
        (path / "meta/episodes_stats.jsonl").unlink()
        info = json.loads((path / "meta/info.json").read_text())
        (path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.0"}))
        dataset = LeRobotDataset.open(path)
        assert dataset.info.version == "v2.0"
        np.testing.assert_array_equal(dataset.statistics["action"]["mean"], expected["action"]["mean"])
        assert dataset.episode_statistics() == {}

    def test_statistics_that_v20_left_do_not_count(self, tmp_path):
        path = write(tmp_path / "it", "v2.1", episodes=2)
        stale = {"action": {"mean": [9.0, 9.0], "std": [1.0, 1.0], "min": [0, 0], "max": [9, 9], "count": [3]}}
        (path / "meta/stats.json").write_text(json.dumps(stale))
        assert LeRobotDataset.open(path).statistics["action"]["max"].tolist() == frames(1)["action"][-1].tolist()
        (path / "meta/episodes_stats.jsonl").unlink()
        assert LeRobotDataset.open(path).statistics["action"]["max"].tolist() == [9, 9]


def test_quantiles_of_the_whole_need_those_of_every_episode():
    parts = [{"a": column_statistics(np.arange(n, dtype=np.float32))} for n in (4, 9)]
    assert aggregate(parts)["a"]["q99"].shape == (1,)
    del parts[0]["a"]["q99"]
    assert set(aggregate(parts)["a"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90"}


class TestV30(Conformance):
    version = "v3.0"

    def rows(self, dataset):
        return pq.ParquetFile(dataset.root / "meta/episodes/chunk-000/file-000.parquet").read().to_pylist()

    def table(self, dataset, episode):
        table = pq.ParquetFile(dataset.root / "data/chunk-000/file-000.parquet").read()
        row = self.rows(dataset)[episode]
        return table.slice(row["dataset_from_index"], row["dataset_to_index"] - row["dataset_from_index"])

    def video(self, dataset, episode):
        row = self.rows(dataset)[episode]
        return dataset.root / "videos/image/chunk-000/file-000.mp4", row["videos/image/from_timestamp"]

    def statistics(self, dataset, episode):
        names = ("min", "max", "mean", "std", "count")
        row = self.rows(dataset)[episode]
        keys = {name.split("/")[1] for name in row if name.startswith("stats/")}
        return {key: {name: row[f"stats/{key}/{name}"] for name in names} for key in keys}

    def tasks(self, dataset):
        table = pq.ParquetFile(dataset.root / "meta/tasks.parquet").read()
        return dict(zip(table["task_index"].to_pylist(), table["task"].to_pylist(), strict=True))

    def test_rows_say_where_episodes_lie(self, dataset):
        end = 0
        for episode, row in enumerate(self.rows(dataset)):
            assert (row["episode_index"], row["length"], row["tasks"]) == (episode, length(episode), [task(episode)])
            assert (row["dataset_from_index"], row["dataset_to_index"]) == (end, end + length(episode))
            assert (row["data/chunk_index"], row["data/file_index"]) == (0, 0)
            assert (row["meta/episodes/chunk_index"], row["meta/episodes/file_index"]) == (0, 0)
            if dataset.info.video_keys:
                assert row["videos/image/from_timestamp"] == pytest.approx(end / FPS)
                assert row["videos/image/to_timestamp"] == pytest.approx((end + length(episode)) / FPS)
            end += length(episode)
        groups = pq.ParquetFile(dataset.root / "data/chunk-000/file-000.parquet").metadata
        assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [
            length(e) for e in range(EPISODES)
        ]

    def test_pandas_finds_tasks_in_the_index(self, dataset):
        pandas = pytest.importorskip("pandas")
        found = pandas.read_parquet(dataset.root / "meta/tasks.parquet")
        assert found.index.name == "task"
        assert found.loc[TASKS[1]].task_index == 1

    def test_a_full_file_is_followed_by_another(self, tmp_path):
        limits = {"data_files_size_in_mb": 1e-6, "video_files_size_in_mb": 1e-6, "chunks_size": 2}
        dataset = LeRobotDataset.open(write(tmp_path / "it", "v3.0", video=True, episodes=3, **limits))
        assert [episode.file for episode in dataset.episodes] == [
            f"data/chunk-{n // 2:03d}/file-{n % 2:03d}.parquet" for n in range(3)
        ]
        assert dataset.episodes[2].videos["image"].file == "videos/image/chunk-001/file-000.mp4"
        for episode in range(3):
            np.testing.assert_array_equal(dataset.frames(episode)["action"], frames(episode)["action"])
            assert abs(int(np.median(dataset.image(episode, 3, "image"))) - level(episode, 3)) <= 3
