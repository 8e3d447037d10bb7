"""`split` and `convert`: parts are disjoint and whole, counts and checksums add up, versions lose nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DamagedError, DatasetError, DatasetWriter, LeRobotDataset, video
from vlascope_datasets.checksums import add, as_text, episode_checksum, pictures_checksum
from vlascope_datasets.commands import main
from vlascope_datasets.copying import copy_episodes
from vlascope_datasets.splitting import choose_episodes, split_dataset
from vlascope_datasets.video import VideoWriter

from tests.datasets.dataset_fixtures import FPS, HEIGHT, WIDTH, frames, image, length, level, one_line, task, write
from tests.datasets.dataset_fixtures import add as add_episode

EPISODES = 7
KINDS = [("v2.1", False), ("v2.1", True), ("v3.0", False), ("v3.0", True)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{'video' if kind[1] else 'image'}")
def source(request, tmp_path_factory):
    version, is_video = request.param
    return LeRobotDataset.open(
        write(tmp_path_factory.mktemp("source") / "it", version, video=is_video, episodes=EPISODES)
    )


def assert_is(dataset, place, episode):
    """Episode `place` of `dataset` is episode `episode` of the source, numbered anew."""
    read, first = dataset.frames(place), dataset.episode(place).first_frame
    for key, expected in frames(episode).items():
        np.testing.assert_array_equal(read[key], expected)
    n = length(episode)
    assert read["index"].tolist() == list(range(first, first + n))
    assert read["frame_index"].tolist() == list(range(n))
    assert set(read["episode_index"]) == {place}
    assert dataset.task(place) == task(episode)
    seen = dataset.images(place, "image")
    assert [abs(int(np.median(seen[k])) - level(episode, k)) <= 3 for k in range(n)] == [True] * n


def test_parts_are_disjoint_whole_datasets_and_add_up(source, tmp_path):
    record = split_dataset(source.root, tmp_path / "out", split_num=3, seed=42)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["split.json", "split_0", "split_1", "split_2"]
    parts = [LeRobotDataset.open(tmp_path / "out" / f"split_{n}") for n in range(3)]
    members = [split["source_episodes"] for split in record["splits"]]
    assert sorted(itertools.chain(*members)) == list(range(EPISODES))
    assert sorted(map(len, members)) == [2, 2, 3]
    assert sum(map(len, parts)) == len(source) == record["total"]["frames"]
    for part, episodes in zip(parts, members, strict=True):
        assert part.info.version == source.info.version
        assert len(part.episodes) == part.info.total_episodes == len(episodes)
        assert len(part) == part.info.total_frames == sum(map(length, episodes))
        assert set(part.tasks.values()) == {task(episode) for episode in episodes}
        assert sorted(part.tasks) == list(range(len(part.tasks)))
        for place, episode in enumerate(episodes):
            assert_is(part, place, episode)
    whole = add(episode_checksum(source, episode) for episode in range(EPISODES))
    again = [add(episode_checksum(part, place) for place in range(len(part.episodes))) for part in parts]
    assert [as_text(each) for each in again] == [split["checksum"] for split in record["splits"]]
    assert as_text(whole) == as_text(add(again)) == record["total"]["checksum"]


def test_statistics_are_those_of_the_part(source, tmp_path):
    record = split_dataset(source.root, tmp_path / "out", split_num=2)
    for number, split in enumerate(record["splits"]):
        part = LeRobotDataset.open(tmp_path / "out" / f"split_{number}")
        kept = part.episode_statistics()
        actions = np.concatenate([frames(e)["action"] for e in split["source_episodes"]]).astype(np.float64)
        np.testing.assert_allclose(part.statistics["action"]["mean"], actions.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(part.statistics["action"]["std"], actions.std(axis=0), rtol=1e-6)
        assert part.statistics["index"]["max"].tolist() == [len(part) - 1]
        for place, episode in enumerate(split["source_episodes"]):
            assert kept[place]["episode_index"]["mean"].tolist() == [place]
            np.testing.assert_array_equal(
                kept[place]["image"]["mean"], source.episode_statistics()[episode]["image"]["mean"]
            )


def test_the_record_says_what_was_done(source, tmp_path):
    split_dataset(source.root, tmp_path / "out", split_num=2, seed=7)
    record = json.loads((tmp_path / "out/split.json").read_text())
    assert record["configuration"]["seed"] == 7
    assert record["configuration"]["source_path"] == str(source.root.resolve())
    info = (source.root / "meta/info.json").read_bytes()
    assert record["source"]["info_sha256"] == hashlib.sha256(info).hexdigest()
    assert (record["source"]["episodes"], record["source"]["frames"]) == (EPISODES, len(source))
    assert {"python", "pyarrow", "av", "vlascope-datasets"} <= set(record["versions"])
    own = json.loads((tmp_path / "out/split_1/meta/split.json").read_text())
    assert own["split"] == record["splits"][1]
    assert own["source"] == record["source"]


def test_the_other_version_and_back_is_the_same(source, tmp_path):
    other, back = {"v2.1": ("v3.0", "v2.1"), "v3.0": ("v2.1", "v3.0")}[source.info.version]
    there = copy_episodes(source, range(EPISODES), tmp_path / "there", other)
    dataset = LeRobotDataset.open(tmp_path / "there")
    assert dataset.info.version == other
    assert there.encoded_again == ()
    for episode in range(EPISODES):
        assert_is(dataset, episode, episode)
    assert copy_episodes(dataset, range(EPISODES), tmp_path / "back", back).checksum == there.checksum
    assert there.checksum == add(episode_checksum(source, episode) for episode in range(EPISODES))


def test_the_shuffle_follows_the_seed():
    assert (
        choose_episodes(range(100), 4, 42) == choose_episodes(range(100), 4, 42) != choose_episodes(range(100), 4, 43)
    )
    parts = choose_episodes(range(101), 4, 0)
    assert sorted(map(len, parts)) == [25, 25, 25, 26]
    assert sorted(itertools.chain(*parts)) == list(range(101))
    assert all(part == sorted(part) for part in parts)
    assert parts[0] != list(range(26))


@pytest.mark.parametrize(("version", "video"), KINDS)
def test_what_a_camera_saw_has_a_checksum_of_its_own(tmp_path, version, video):
    source = LeRobotDataset.open(write(tmp_path / "it", version, video=video, episodes=2))
    copy_episodes(source, range(2), tmp_path / "copy", "v2.1")
    copy = LeRobotDataset.open(tmp_path / "copy")
    seen = [pictures_checksum(source, episode, ["image"], [0, 2]) for episode in range(2)]
    assert len(set(seen)) == 2
    assert seen == [pictures_checksum(copy, episode, ["image"], [0, 2]) for episode in range(2)]
    if not video:
        assert pictures_checksum(source, 0, ["image"], [0, 1]) != seen[0]


def test_checksums_see_every_change(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    before = episode_checksum(LeRobotDataset.open(path), 1)
    file = path / "data/chunk-000/episode_000001.parquet"
    table = pq.ParquetFile(file).read()
    state = table["state"].to_pylist()
    state[2][1] += 1e-3
    changed = table.set_column(
        table.column_names.index("state"), "state", pa.array(state, table.schema.field("state").type)
    )
    pq.write_table(changed, file)
    assert episode_checksum(LeRobotDataset.open(path), 1) != before
    pq.write_table(table, file, compression="zstd", row_group_size=2)
    assert episode_checksum(LeRobotDataset.open(path), 1) == before
    tasks = path / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().replace("right", "front"))
    assert episode_checksum(LeRobotDataset.open(path), 1) != before


def test_a_video_that_cannot_be_cut_is_encoded_again_and_said_so(tmp_path, monkeypatch):
    path = write(tmp_path / "it", "v3.0", video=True, episodes=3)
    file = path / "videos/image/chunk-000/file-000.mp4"
    monkeypatch.setattr(video, "GOP", 100)
    writer = VideoWriter(file, FPS, (HEIGHT, WIDTH), 10)
    for episode in range(3):
        for frame in range(length(episode)):
            writer.add(image(episode, frame))
    writer.close()
    record = split_dataset(path, tmp_path / "out", split_num=3)
    again = [number for split in record["splits"] for number in split["video_encoded_again"]]
    # the first episode begins with the only keyframe that is sure; x264 may set one at the last
    assert 1 in again
    assert 0 not in again
    for number, split in enumerate(record["splits"]):
        assert_is(LeRobotDataset.open(tmp_path / "out" / f"split_{number}"), 0, split["source_episodes"][0])


def test_v20_without_statistics_of_episodes_gets_them(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=3)
    expected = LeRobotDataset.open(path).episode_statistics()
    (path / "meta/episodes_stats.jsonl").unlink()
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.0"}))
    with pytest.raises(DatasetError) as error:
        DatasetWriter.resume(path)
    one_line(error, "v2.0", "convert")
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v2.1"]) == 0
    found = LeRobotDataset.open(tmp_path / "new").episode_statistics()
    for episode in range(3):
        for key in ("image", "state", "timestamp"):
            np.testing.assert_allclose(found[episode][key]["std"], expected[episode][key]["std"], rtol=1e-6)


def test_what_a_killed_split_left_is_cleared_and_nothing_else(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    (tmp_path / "out/.split_0.partial/data").mkdir(parents=True)
    split_dataset(path, tmp_path / "out", split_num=2)
    with pytest.raises(DatasetError) as error:
        split_dataset(path, tmp_path / "out", split_num=2)
    one_line(error, tmp_path / "out", "not empty")
    with pytest.raises(DatasetError) as error:
        split_dataset(path, path / "parts", split_num=2)
    one_line(error, "inside of the source")


def test_wrong_requests_and_sources(tmp_path):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=3)
    for number, said in ((4, "at most 3"), (0, "at least 1")):
        with pytest.raises(DatasetError) as error:
            split_dataset(path, tmp_path / "out", split_num=number)
        one_line(error, "split_num", said)
    film = path / "videos/chunk-000/image/episode_000001.mp4"
    shutil.move(film, tmp_path / "kept.mp4")
    with pytest.raises(DatasetError) as error:
        split_dataset(path, tmp_path / "out", split_num=2)
    one_line(error, film, "missing")
    assert not list((tmp_path / "out").glob("split_*"))
    shutil.move(tmp_path / "kept.mp4", film)
    data = path / "data/chunk-000/episode_000002.parquet"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(DamagedError) as error:
        split_dataset(path, tmp_path / "out", split_num=2)
    one_line(error, data)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_only_cameras_keep_statistics_under_a_name_with_image(version, tmp_path):
    """LeRobot takes such a name for a camera's, and opens no v2.1 dataset where its statistics are of another shape."""
    features = {
        "wrist_image": {"dtype": "image", "shape": (16, 16, 3)},
        "wrist_image_target": {"dtype": "float32", "shape": (2,)},
        "image_seen": {"dtype": "bool", "shape": (1,)},
        "actions": {"dtype": "float32", "shape": (2,)},
    }
    path, rng = tmp_path / "it", np.random.default_rng(0)
    with DatasetWriter.create(path, FPS, features, version=version) as writer:
        for _ in range(2):
            columns = {key: np.zeros((4, 2), np.float32) for key in ("wrist_image_target", "actions")}
            images = rng.integers(0, 255, (4, 16, 16, 3), np.uint8)
            writer.add_episode(columns | {"image_seen": np.ones(4, bool)}, {"wrist_image": images}, "push")
    if version == "v2.1":  # what was written before this was known
        file = path / "meta/episodes_stats.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["stats"]["wrist_image_target"] = line["stats"]["actions"]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    split_dataset(path, tmp_path / "parts", split_num=2)
    made = [tmp_path / "parts/split_0", tmp_path / "parts/split_1"]
    for other in ("v2.1", "v3.0"):
        made.append(tmp_path / other)
        assert main(["convert", str(path), str(made[-1]), "--version", other]) == 0
    for each in [*made, *([path] if version == "v3.0" else [])]:
        dataset = LeRobotDataset.open(each)
        for kept in (*dataset.episode_statistics().values(), dataset.statistics):
            assert {"wrist_image", "actions", "index"} <= set(kept)
            named = {key: values for key, values in kept.items() if "image" in key}
            for values in named.values():
                assert {value.shape for name, value in values.items() if name != "count"} == {(3, 1, 1)}
        assert dataset.frames(0)["wrist_image_target"].shape == (4, 2)


def test_quantiles_survive_a_split_and_a_resumption(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=4)
    with DatasetWriter.resume(path) as writer:
        add_episode(writer, 4)
    split_dataset(path, tmp_path / "out", split_num=2)
    for each in (path, tmp_path / "out/split_0", tmp_path / "out/split_1"):
        found = LeRobotDataset.open(each).statistics
        for key in ("state", "action", "image"):
            assert (found[key]["q01"] <= found[key]["q50"]).all()
            assert (found[key]["q50"] <= found[key]["q99"]).all()


def test_a_conversion_adds_the_quantiles_that_others_do_not_keep(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    file = path / "meta/episodes_stats.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for values in (values for line in lines for values in line["stats"].values()):
        for name in [name for name in values if name.startswith("q")]:
            del values[name]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "q01" not in LeRobotDataset.open(path).statistics["action"]
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 0
    assert {"q01", "q99"} <= set(LeRobotDataset.open(tmp_path / "new").statistics["action"])


def test_a_conversion_is_whole_or_absent(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=3)
    asked = ["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]
    (tmp_path / ".new.partial/data").mkdir(parents=True)  # a killed one's
    (tmp_path / "new").mkdir()
    film = path / "videos/chunk-000/image/episode_000002.mp4"
    shutil.move(film, tmp_path / "kept.mp4")
    assert main(asked) == 2
    assert "episode_000002.mp4" in capsys.readouterr().err.splitlines()[-1]
    assert not any((tmp_path / "new").iterdir())
    assert not (tmp_path / ".new.partial").exists()
    shutil.move(tmp_path / "kept.mp4", film)
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: free)
        assert main(asked) == 2
    assert "10 are free" in capsys.readouterr().err.splitlines()[-1]
    assert main(["convert", str(path), str(path / "inside"), "--version", "v3.0"]) == 2
    assert "inside of the source" in capsys.readouterr().err.splitlines()[-1]
    shutil.copytree(path, tmp_path / ".other.partial")
    assert main(["convert", str(tmp_path / ".other.partial"), str(tmp_path / "other"), "--version", "v3.0"]) == 2
    assert "holds the source" in capsys.readouterr().err.splitlines()[-1]
    assert len(LeRobotDataset.open(tmp_path / ".other.partial").episodes) == 3
    assert main(asked) == 0
    record = json.loads((tmp_path / "new/meta/convert.json").read_text())
    assert record["configuration"]["version"] == "v3.0"
    assert record["copy"]["episodes"] == len(LeRobotDataset.open(tmp_path / "new").episodes) == 3
    assert main(asked) == 2
    assert "not empty" in capsys.readouterr().err.splitlines()[-1]


def test_a_split_that_fails_leaves_nothing(tmp_path):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=4)
    (path / "videos/chunk-000/image/episode_000003.mp4").unlink()
    with pytest.raises(DatasetError, match="episode_000003"):
        split_dataset(path, tmp_path / "out", split_num=2)
    assert not list((tmp_path / "out").iterdir())


def test_how_a_dataset_was_collected_goes_with_its_parts(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    (path / "collections.jsonl").write_text('{"options": {"render": "fast"}}\n')
    split_dataset(path, tmp_path / "out", split_num=2)
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 0
    for copy in ("out/split_0", "out/split_1", "new"):
        assert (tmp_path / copy / "collections.jsonl").read_text() == '{"options": {"render": "fast"}}\n'


def change(path, episode, change_table):
    file = path / f"data/chunk-000/episode_{episode:06d}.parquet"
    pq.write_table(change_table(pq.ParquetFile(file).read()), file)
    return file


def replaced(key, value):
    """A change of a table: the second row of a column."""

    def change_table(table):
        cells = table[key].to_pylist()
        cells[1] = value
        column = pa.array(cells, table.schema.field(key).type)
        return table.set_column(table.column_names.index(key), key, column)

    return change_table


@pytest.mark.parametrize("how", ["split", "convert"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table.drop_columns(["state"]), ("lacks the column state",)),
        (lambda table: table.drop_columns(["task_index"]), ("lacks the column task_index",)),
        (lambda table: table.drop_columns(["image"]), ("lacks the column image",)),
        (replaced("state", None), ("episode 1", "state", "nulls")),
        (replaced("note", None), ("episode 1", "note", "nulls")),
        (replaced("reward", None), ("episode 1", "reward", "nulls")),
        (replaced("image", None), ("episode 1", "image", "holds no image")),
        (replaced("task_index", None), ("episode 1", "task_index", "nulls")),
        (replaced("episode_index", None), ("episode 1", "None")),
        (replaced("task_index", 9), ("episode 1", "task 9", "not among the dataset's 2")),
    ],
)
def test_damaged_episodes_are_one_line(how, spoil, said, tmp_path, capsys):
    path = write(tmp_path / "it", "v2.1", episodes=3)
    file = change(path, 1, spoil)
    out = str(tmp_path / "out")
    asked = {
        "split": ["--source-path", str(path), "--dst-path", out, "--split-num", "2"],
        "convert": [str(path), out, "--version", "v3.0"],
    }
    assert main([how, *asked[how]]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"vlascope-datasets: {file}: ")
    for part in said:
        assert part in line
    assert not list(tmp_path.glob("out/[!.]*"))


def test_a_negative_seed_is_one_line(tmp_path, capsys):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    asked = [
        "split",
        "--source-path",
        str(path),
        "--dst-path",
        str(tmp_path / "out"),
        "--split-num",
        "2",
        "--seed",
        "-1",
    ]
    assert main(asked) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "vlascope-datasets: seed: expected at least 0, found -1"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spelling", ["_", "-"])
def test_the_command_takes_the_reference_options_in_both_spellings(spelling, tmp_path, capsys):
    path = write(tmp_path / "it", "v3.0", video=True, episodes=5)
    options = {"source_path": path, "dst_path": tmp_path / "out", "split_num": 2, "seed": 42}
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', spelling)}", str(value))]
    assert main(["split", *words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    planned = capsys.readouterr().out
    assert main(["split", *words]) == 0
    captured = capsys.readouterr()
    record = json.loads((tmp_path / "out/split.json").read_text())
    assert f"split_1: 2 episodes: {', '.join(map(str, record['splits'][1]['source_episodes']))}" in planned
    assert record["total"]["checksum"][:8] in captured.out
    assert captured.err == ""
    assert main(["split", *words, "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["split"]["split_num"] == 2
    assert main(["split", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vlascope-datasets: ")
    assert "not empty" in error
