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
from vlascope_datasets.checksums import add, as_text, episode_checksum
from vlascope_datasets.commands import main
from vlascope_datasets.copying import copy_episodes
from vlascope_datasets.splitting import choose_episodes, split_dataset
from vlascope_datasets.video import VideoWriter

from tests.datasets.dataset_fixtures import FPS, HEIGHT, WIDTH, frames, image, length, level, one_line, task, write

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
    assert choose_episodes(100, 4, 42) == choose_episodes(100, 4, 42) != choose_episodes(100, 4, 43)
    parts = choose_episodes(101, 4, 0)
    assert sorted(map(len, parts)) == [25, 25, 25, 26]
    assert sorted(itertools.chain(*parts)) == list(range(101))
    assert all(part == sorted(part) for part in parts)
    assert parts[0] != list(range(26))


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
    assert json.loads(captured.err.splitlines()[0])["split"]["split_num"] == 2
    assert main(["split", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vlascope-datasets: ")
    assert "not empty" in error
