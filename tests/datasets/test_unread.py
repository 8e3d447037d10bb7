"""What is not read is not damaged: it is carried over byte for byte, left out of `frames()` and named."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_datasets import DatasetError, DatasetWriter, LeRobotDataset, UnreadError
from vlascope_datasets.commands import main
from vlascope_datasets.converting import convert_dataset
from vlascope_datasets.images import decode
from vlascope_datasets.splitting import split_dataset
from vlascope_datasets.survey import gather, summarise

from tests.datasets.dataset_fixtures import add, length, one_line, write
from tests.datasets.foreign import column, data_files, feature, images, png

EPISODES = 3
_ROW = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string())])


def depth(episode, frame):
    """Millimetres, far above what eight bits hold."""
    return np.full((32, 48), 1000 + 100 * frame + episode, np.uint16)


def said(episode, frame):
    """What LeRobot's language columns hold: rows of annotations, of which there may be none."""
    return [{"role": "user", "content": f"{episode}/{frame}"}] if frame % 2 else []


UNREAD = {
    "observation.depth": (
        {"dtype": "image", "shape": [32, 48, 1], "names": None, "info": {"is_depth_map": True}},
        lambda episode, n: images([png(depth(episode, frame)) for frame in range(n)]),
        "a depth map",
    ),
    "language_events": (
        {"dtype": "language", "shape": [1], "names": None},
        lambda episode, n: pa.array([said(episode, frame) for frame in range(n)], pa.list_(_ROW)),
        "of dtype 'language'",
    ),
    "taken_on": (
        {"dtype": "date32", "shape": [1], "names": None},
        lambda episode, n: pa.array([7000 + episode] * n, pa.date32()),
        "of dtype 'date32'",
    ),
    "nothing": (
        {"dtype": "float32", "shape": [0], "names": None},
        lambda episode, n: pa.array([[] for _ in range(n)], pa.list_(pa.float32())),
        "of shape (0,)",
    ),
    "mystery": (
        {"dtype": "tensor", "shape": [2], "names": None},
        lambda episode, n: pa.array([None if episode else b"x"] * n, pa.binary()),
        "of dtype 'tensor'",
    ),
}


@pytest.fixture
def path(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=EPISODES)
    for key, (declared, make, _) in UNREAD.items():
        feature(path, key, **declared)
        for episode, file in enumerate(data_files(path)):
            column(file, key, make(episode, length(episode)))
    return path


def stored(dataset, episode, key):
    return dataset.table(episode)[key].to_pylist()


def test_it_is_left_out_and_named(path, capsys):
    dataset = LeRobotDataset.open(path)
    assert not set(dataset.frames(0)) & set(UNREAD)
    assert dataset.info.camera_keys == ["image"]
    assert set(dataset.info.unread) == set(UNREAD)
    for key, (_, _, why) in UNREAD.items():
        assert why in dataset.info.unread[key]
        with pytest.raises(UnreadError) as error:
            dataset.frames(0, [key])
        one_line(error, path, key, why, "not read")
    with pytest.raises(UnreadError) as error:
        dataset.image(0, 0, "observation.depth")
    one_line(error, path, "observation.depth", "a depth map", "not read")
    summary = summarise(gather(path))
    assert summary["anomalies"]["count"] == 0
    assert set(summary["not_read"]) == set(UNREAD)
    assert main(["stats", str(path), "--out", str(path.parent / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not read" in shown
    assert "observation.depth: a depth map" in shown


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_it_is_carried_over_as_it_is(path, version):
    source = LeRobotDataset.open(path)
    convert_dataset(source, path.parent / "new", version)
    split_dataset(path, path.parent / "parts", split_num=2)
    copy = LeRobotDataset.open(path.parent / "new")
    assert copy.info.features == source.info.features
    record = json.loads((path.parent / "parts/split.json").read_text())
    parts = [(copy, list(range(EPISODES)))]
    parts += [(LeRobotDataset.open(path.parent / "parts" / s["name"]), s["source_episodes"]) for s in record["splits"]]
    for part, episodes in parts:
        for place, number in enumerate(episodes):
            for key, (_, make, _) in UNREAD.items():
                values = stored(part, place, key)
                assert values == make(number, length(number)).to_pylist()
                assert values == stored(source, number, key)
                assert part.table(place)[key].type == source.table(number)[key].type
    # and back, so that joined files are taken apart again
    convert_dataset(copy, path.parent / "back", "v2.1")
    back = LeRobotDataset.open(path.parent / "back")
    for number in range(EPISODES):
        for key in UNREAD:
            assert stored(back, number, key) == stored(source, number, key)


def test_a_change_of_it_is_seen_by_the_checksum(path):
    before = convert_dataset(LeRobotDataset.open(path), path.parent / "a", "v2.1")["copy"]["checksum"]
    file = data_files(path)[1]
    table = pq.ParquetFile(file).read()
    changed = table["taken_on"].to_pylist()
    changed[2] = changed[2].replace(year=2001)
    place = table.column_names.index("taken_on")
    pq.write_table(table.set_column(place, "taken_on", pa.array(changed, pa.date32())), file)
    assert convert_dataset(LeRobotDataset.open(path), path.parent / "b", "v2.1")["copy"]["checksum"] != before


def test_columns_that_differ_in_type_lie_in_files_of_their_own(tmp_path):
    """A column that is null throughout one episode has another type there: joined, each keeps its own."""
    path = write(tmp_path / "it", "v2.1", episodes=EPISODES)
    feature(path, "language_events", dtype="language", shape=[1], names=None)
    for episode, file in enumerate(data_files(path)):
        n = length(episode)
        values = pa.nulls(n) if episode == 1 else pa.array([said(episode, frame) for frame in range(n)], pa.list_(_ROW))
        column(file, "language_events", values)
    source = LeRobotDataset.open(path)
    convert_dataset(source, tmp_path / "new", "v3.0")
    copy = LeRobotDataset.open(tmp_path / "new")
    assert [episode.file for episode in copy.episodes] == [f"data/chunk-000/file-{n:03d}.parquet" for n in range(3)]
    for episode in range(EPISODES):
        assert stored(copy, episode, "language_events") == stored(source, episode, "language_events")


def test_nobody_writes_what_nobody_reads(path):
    with pytest.raises(DatasetError) as error, DatasetWriter.resume(path) as writer:
        add(writer, 3)
    one_line(error, path, "observation.depth", "can only be copied")


def test_a_depth_map_that_is_not_declared_one(tmp_path, capsys):
    """Its bytes say what it is: it is neither clipped to eight bits nor called damaged, and is copied."""
    path = write(tmp_path / "it", "v2.1", episodes=2)
    feature(path, "far", dtype="image", shape=[32, 48, 1], names=["height", "width", "channel"])
    for episode, file in enumerate(data_files(path)):
        column(file, "far", images([png(depth(episode, frame)) for frame in range(length(episode))]))
    dataset = LeRobotDataset.open(path)
    with pytest.raises(UnreadError) as error:
        dataset.image(0, 0, "far")
    one_line(error, data_files(path)[0], "episode 0, frame 0, far", "mode I;16", "copied")
    summary = summarise(gather(path))
    assert summary["anomalies"]["by_kind"] == {"not_read": 2}
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 0
    copy = LeRobotDataset.open(tmp_path / "new")
    for episode in range(2):
        assert stored(copy, episode, "far") == stored(dataset, episode, "far")
    assert "far" not in copy.statistics


def test_a_video_of_depth_is_copied(tmp_path):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=2)
    declared = json.loads((path / "meta/info.json").read_text())["features"]["image"]
    feature(path, "image", info=declared["info"] | {"video.is_depth_map": True})
    source = LeRobotDataset.open(path)
    assert source.info.camera_keys == []
    convert_dataset(source, tmp_path / "new", "v3.0")
    convert_dataset(LeRobotDataset.open(tmp_path / "new"), tmp_path / "back", "v2.1")
    back = LeRobotDataset.open(tmp_path / "back")
    assert back.info.features["image"]["info"] == source.info.features["image"]["info"]
    assert summarise(gather(tmp_path / "back"))["anomalies"]["count"] == 0


def test_a_video_of_depth_is_not_encoded_again(tmp_path):
    """Where a cut would need that, it is refused: eight bits of colour cannot hold it."""
    from tests.datasets.foreign import cells, episode_file, film

    path = write(tmp_path / "it", "v3.0", video=True, episodes=2)
    film(path / "videos/image/chunk-000/file-000.mp4", np.arange(11) / 10, gop=60)
    cells(episode_file(path), "videos/image/from_timestamp", lambda _: [0.0, 0.5])
    declared = json.loads((path / "meta/info.json").read_text())["features"]["image"]
    feature(path, "image", info=declared["info"] | {"is_depth_map": True})
    with pytest.raises(DatasetError) as error:
        convert_dataset(LeRobotDataset.open(path), tmp_path / "new", "v2.1")
    one_line(error, path / "videos", "cannot be cut out without encoding them again")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("RGB", True), ("L", True), ("P", True), ("1", True), ("RGBA", True), ("LA", True), ("CMYK", False), ("F", False),
     ("I", False), ("I;16", False)],
)  # fmt: skip
def test_images_of_every_mode(mode, kept):
    """Those that eight bits of red, green and blue hold are read exactly; no other is."""
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    picture = grey.convert("I").convert(mode) if mode == "I;16" else grey.convert(mode)
    out = io.BytesIO()
    picture.save(out, "TIFF")
    if not kept:
        with pytest.raises(UnreadError, match=f"mode {mode}"):
            decode(out.getvalue(), "here")
        return
    found = decode(out.getvalue(), "here")
    assert found.shape == (3, 4, 3)
    np.testing.assert_array_equal(found, np.asarray(picture.convert("RGB")))
    if mode in ("RGBA", "LA"):
        picture.putalpha(128)
        out = io.BytesIO()
        picture.save(out, "PNG")
        with pytest.raises(UnreadError, match=f"mode {mode}"):
            decode(out.getvalue(), "here")
