"""What is not read is not damaged: it is carried over byte for byte, left out of `frames()` and named."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_datasets import DamagedError, DatasetError, DatasetWriter, LeRobotDataset, UnreadError
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


SIXTEEN = {
    "colour": np.array([[[300, 1000, 65535]]], np.uint16),
    "grey": np.array([[1234]], np.uint16),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_sixteen_bits_are_not_clipped_to_eight(kind):
    """Pillow says of such a PNG that it is RGB."""
    with pytest.raises(UnreadError, match="16"):
        decode(sixteen_bits(SIXTEEN[kind]), "here")


def sixteen_bits(image: np.ndarray) -> bytes:
    """A PNG as its specification has it: chunks of length, name, content and checksum; rows of big-endian numbers."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = image.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if image.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_colour_that_stands_for_nothing(mode):
    """A palette or a plain picture may name a colour that is not seen; where none of it is there, nothing is hidden."""
    for grey, hidden in ((7, True), (9, False)):
        picture = Image.new("L", (4, 3), 7).convert(mode)
        named = {"RGB": (grey,) * 3, "L": grey, "P": picture.getpixel((0, 0)) if hidden else 200}[mode]
        out = io.BytesIO()
        picture.save(out, "PNG", transparency=named)
        if hidden:
            with pytest.raises(UnreadError, match="with transparency"):
                decode(out.getvalue(), "here")
        else:
            assert decode(out.getvalue(), "here").tolist() == np.full((3, 4, 3), 7).tolist()


@pytest.mark.parametrize("how", ["binary", "bytes alone", "files", "links"])
def test_images_however_they_are_stored(tmp_path, how):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    sound = LeRobotDataset.open(path)
    expected = [sound.images(episode, "image") for episode in range(2)]
    for episode, file in enumerate(data_files(path)):
        pictures = [cell["bytes"] for cell in pq.ParquetFile(file).read()["image"].to_pylist()]
        names = [f"images/{episode}-{n}.png" for n in range(len(pictures))]
        if how in ("files", "links"):
            for name, content in zip(names, pictures, strict=True):
                kept = (tmp_path / "blobs" if how == "links" else path) / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(content)
                if how == "links":
                    (path / name).parent.mkdir(exist_ok=True)
                    (path / name).symlink_to(kept)
        values = {
            "binary": pictures, "bytes alone": [{"bytes": content} for content in pictures],
        }.get(how, [{"bytes": None, "path": name} for name in names])  # fmt: skip
        table = pq.ParquetFile(file).read()
        kind = {"binary": pa.binary(), "bytes alone": pa.struct({"bytes": pa.binary()})}.get(
            how, pa.struct({"bytes": pa.binary(), "path": pa.string()})
        )
        place = table.column_names.index("image")
        pq.write_table(table.set_column(place, pa.field("image", kind), pa.array(values, kind)), file)
    changed = LeRobotDataset.open(path)
    convert_dataset(changed, tmp_path / "new", "v3.0")
    for dataset in (changed, LeRobotDataset.open(tmp_path / "new")):
        for episode in range(2):
            np.testing.assert_array_equal(dataset.images(episode, "image"), expected[episode])


def test_empty_cells_of_depth_are_carried_over(tmp_path):
    path = write(tmp_path / "it", "v2.1", episodes=2)
    feature(path, "observation.depth", **UNREAD["observation.depth"][0])
    for episode, file in enumerate(data_files(path)):
        encoded = [png(depth(episode, frame)) if frame else None for frame in range(length(episode))]
        column(file, "observation.depth", pa.array([e and {"bytes": e, "path": "x.png"} for e in encoded]))
    source = LeRobotDataset.open(path)
    convert_dataset(source, tmp_path / "new", "v3.0")
    copy = LeRobotDataset.open(tmp_path / "new")
    for episode in range(2):
        assert stored(copy, episode, "observation.depth") == stored(source, episode, "observation.depth")


def test_images_are_those_of_the_episodes_own_rows(tmp_path):
    """What `frames` refuses, `image` and `images` refuse."""
    path = write(tmp_path / "it", "v2.1", episodes=4)
    files = data_files(path)
    files[3].write_bytes(files[0].read_bytes())
    table = pq.ParquetFile(files[2]).read()
    pq.write_table(table.take(list(reversed(range(len(table))))), files[2])
    dataset = LeRobotDataset.open(path)
    for episode, wrong in ((3, "say that they are of 0"), (2, "frame_index of row")):
        for read in (
            dataset.frames,
            lambda e: dataset.image(e, 1, "image"),
            lambda e: dataset.images(e, "image", [4, 1]),
        ):
            with pytest.raises(DamagedError, match=wrong):
                read(episode)


@pytest.mark.parametrize("shape", [(32, 48, 3), (3, 32, 48)])
def test_no_image_is_as_large_as_one(tmp_path, shape):
    path = write(tmp_path / "it", "v2.1", episodes=1)
    feature(path, "image", shape=list(shape))
    dataset = LeRobotDataset.open(path)
    assert dataset.images(0, "image", []).shape[1:] == dataset.images(0, "image").shape[1:]


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
