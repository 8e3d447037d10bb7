"""A video's frame is the one that is shown at its row's time; where there is none, no reader guesses."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vlascope_datasets import DamagedError, DatasetError, DatasetWriter, LeRobotDataset
from vlascope_datasets.commands import main
from vlascope_datasets.converting import convert_dataset
from vlascope_datasets.splitting import split_dataset
from vlascope_datasets.survey import gather, summarise
from vlascope_datasets.video import read_frames

from tests.datasets.dataset_fixtures import one_line
from tests.datasets.foreign import cells, data_files, episode_file, film, grey, greys, info, shown_at

FPS, N = 30, 24


def write(path, version="v2.1", episodes=2):
    """Episodes of N frames, all on the grid; episode e shows the greys from e * N on."""
    features = {"image": {"dtype": "video", "shape": (32, 48, 3)}, "action": {"dtype": "float32", "shape": (2,)}}
    with DatasetWriter.create(path, FPS, features, version=version, crf=5) as writer:
        for episode in range(episodes):
            shown = [grey(episode * N + number) for number in range(N)]
            writer.add_episode({"action": np.zeros((N, 2), np.float32)}, {"image": shown}, "move")
    return path


def stamped(path, times, episodes=2, **options):
    """The dataset with rows and videos at other times."""
    write(path, episodes=episodes)
    for episode, file in enumerate(data_files(path)):
        cells(file, "timestamp", lambda _: np.asarray(times, np.float32))
        name = f"videos/chunk-000/image/episode_{episode:06d}.mp4"
        film(path / name, times, first=episode * N, **options)
    return path


TIMES = {
    "a camera at 28 a second": np.arange(N) / 28,
    "a camera at 31 a second": np.arange(N) / 31,
    "a clock that stumbles": np.cumsum([0.0, *np.random.default_rng(0).uniform(0.02, 0.05, N - 1)]),
    "a late beginning": np.arange(N) / FPS + 0.05,
}


@pytest.mark.parametrize("coding", [{}, {"gop": 12}, {"gop": 12, "b_frames": 3}], ids=["gop2", "gop12", "b-frames"])
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_every_way_to_read_gives_the_frame_of_the_rows_timestamp(tmp_path, times, coding):
    dataset = LeRobotDataset.open(stamped(tmp_path / "it", times, **coding))
    for episode in range(2):
        numbers = list(range(episode * N, episode * N + N))
        assert greys([dataset.image(episode, frame, "image") for frame in range(N)]) == numbers
        assert greys(dataset.images(episode, "image")) == numbers
        some = [7, 3, 20, 3, 0, N - 1]
        assert greys(dataset.images(episode, "image", some)) == [numbers[frame] for frame in some]


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_copies_keep_every_frame_at_its_time(tmp_path, times):
    path = stamped(tmp_path / "it", times, episodes=2)
    source = LeRobotDataset.open(path)
    convert_dataset(source, tmp_path / "joined", "v3.0")
    joined = LeRobotDataset.open(tmp_path / "joined")
    convert_dataset(joined, tmp_path / "back", "v2.1")
    split_dataset(joined, tmp_path / "parts", split_num=2, seed=0)
    for copy in (joined, LeRobotDataset.open(tmp_path / "back")):
        for episode in range(2):
            np.testing.assert_array_equal(copy.images(episode, "image"), source.images(episode, "image"))
            np.testing.assert_array_equal(copy.frames(episode)["timestamp"], source.frames(episode)["timestamp"])
    parts = [LeRobotDataset.open(tmp_path / f"parts/split_{part}") for part in range(2)]
    assert sorted(greys(part.images(0, "image"))[0] for part in parts) == [0, N]


def test_frames_between_keyframes_at_odd_times_are_encoded_again_at_their_times(tmp_path):
    """Two episodes in one stream, the second within a group of pictures."""
    path = write(tmp_path / "it", "v3.0")
    times = np.arange(N) / 28
    film(path / "videos/image/chunk-000/file-000.mp4", [*times, *(N / 28 + times)], gop=60)
    cells(data_files(path)[0], "timestamp", lambda _: np.tile(times, 2).astype(np.float32))
    rows = episode_file(path)
    cells(rows, "videos/image/from_timestamp", lambda _: [0.0, N / 28])
    cells(rows, "videos/image/to_timestamp", lambda _: [N / 28, 2 * N / 28])
    source = LeRobotDataset.open(path)
    assert greys(source.images(1, "image")) == list(range(N, 2 * N))
    record = convert_dataset(source, tmp_path / "back", "v2.1")
    assert record["copy"]["video_encoded_again"] == [1]
    copy = LeRobotDataset.open(tmp_path / "back")
    again = tmp_path / "back" / copy.episodes[1].videos["image"].file
    assert shown_at(again) == pytest.approx(times, abs=1e-4)
    # encoding again blurs levels that are this near to each other
    assert np.abs(np.subtract(greys(copy.images(1, "image")), range(N, 2 * N))).max() <= 1


def test_a_neighbour_is_no_proof(tmp_path, capsys):
    """The video ran at 28 a second and the rows say 30: only at 0 s and at 0.5 s is a frame shown."""
    path = write(tmp_path / "it")
    film(path / "videos/chunk-000/image/episode_000000.mp4", np.arange(N) / 28)
    dataset = LeRobotDataset.open(path)
    assert greys([dataset.image(0, frame, "image") for frame in (0, 15)]) == [0, 14]
    for frame in (*range(1, 15), *range(16, N)):
        with pytest.raises(DamagedError) as error:
            dataset.image(0, frame, "image")
        one_line(error, "episode_000000.mp4", f"{frame / FPS:.4f} s", "episode 0, image", "tolerance_s")
    with pytest.raises(DamagedError) as error:
        dataset.images(0, "image")
    one_line(error, "shows no frame within 0.0001 s of 0.0333 s; the nearest is at 0.0357 s")
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]) == 2
    assert "expected 24 frames" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()
    summary = summarise(gather(path))
    film_name = "videos/chunk-000/image/episode_000000.mp4"
    assert [each["kind"] for each in summary["anomalies"]["by_file"][film_name]] == ["video_rate", "unreadable"]


def test_the_tolerance_can_be_widened(tmp_path):
    """Rows and video agree to 3 ms: nothing says so but the user."""
    path = write(tmp_path / "it", episodes=1)
    film(path / "videos/chunk-000/image/episode_000000.mp4", np.arange(N) / FPS + 0.003)
    with pytest.raises(DamagedError, match=r"within 0\.0001 s"):
        LeRobotDataset.open(path).images(0, "image")
    assert greys(LeRobotDataset.open(path, tolerance_s=0.004).images(0, "image")) == list(range(N))
    with pytest.raises(DatasetError, match="tolerance_s: expected seconds, at least 0, found -1"):
        LeRobotDataset.open(path, tolerance_s=-1)
    asked = ["convert", str(path), str(tmp_path / "new"), "--version", "v3.0"]
    assert main(asked) == 2
    assert main([*asked, "--tolerance-s", "0.004"]) == 0
    assert greys(LeRobotDataset.open(tmp_path / "new", tolerance_s=0.004).images(0, "image")) == list(range(N))


def test_a_float32_tells_late_times_apart_less_finely(tmp_path):
    """Two hours into a recording a float32 is half a millisecond coarse: that is no fault of the data."""
    late = 7200 + np.arange(N) / 28
    assert np.abs(late.astype(np.float32) - late).max() > 1e-4
    path = stamped(tmp_path / "it", late, episodes=1)
    assert greys(LeRobotDataset.open(path).images(0, "image")) == list(range(N))


def test_frames_that_no_row_names_are_left_behind(tmp_path):
    path = stamped(tmp_path / "it", np.arange(N) / FPS, episodes=2)
    film(path / "videos/chunk-000/image/episode_000000.mp4", np.arange(N + 3) / FPS)
    source = LeRobotDataset.open(path)
    convert_dataset(source, tmp_path / "joined", "v3.0")
    joined = LeRobotDataset.open(tmp_path / "joined")
    assert joined.episodes[1].videos["image"].start == pytest.approx(N / FPS)
    assert greys(joined.images(1, "image")) == list(range(N, 2 * N))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_timestamp_that_is_no_time(tmp_path, bad):
    path = write(tmp_path / "it", episodes=1)
    cells(data_files(path)[0], "timestamp", lambda found: [*found[:3], bad, *found[4:]])
    with pytest.raises(DamagedError) as error:
        LeRobotDataset.open(path).image(0, 0, "image")
    one_line(error, data_files(path)[0], "episode 0", "timestamp of row 3")


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_frame_that_is_shown_before_its_keyframe_is_found(tmp_path, codec):
    """The first frames of an open group of pictures are stored behind the keyframe that they are shown before."""
    path, tick = tmp_path / "v.mp4", Fraction(1, 90_000)
    options = "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:log-level=none"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options={f"{codec[3:]}-params": options, "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = tick
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(np.resize(grey(number)[:1, :1], (64, 64, 3)), format="rgb24")
            frame.pts, frame.time_base = round(number / 10 / tick), tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    places = [place for place, packet in enumerate(packets) if packet.is_keyframe and place]
    assert any((packets[place + 1].pts or 0) < (packets[place].pts or 0) for place in places), (
        "no open group of pictures"
    )
    for number in range(40):
        assert greys(read_frames(path, [number / 10])) == [number]


@pytest.mark.parametrize("tolerance", [0.02, 0.04, 0.1, 1.0])
def test_the_nearest_frame_is_shown_however_wide_the_tolerance(tmp_path, tolerance):
    path = write(tmp_path / "it", episodes=1)
    dataset = LeRobotDataset.open(path, tolerance_s=tolerance)
    assert greys(dataset.images(0, "image")) == list(range(N))
    assert greys([dataset.image(0, frame, "image") for frame in range(N)]) == list(range(N))
    convert_dataset(dataset, tmp_path / "joined", "v3.0")
    joined = LeRobotDataset.open(tmp_path / "joined", tolerance_s=tolerance)
    assert greys(joined.images(0, "image")) == list(range(N))
    uneven = np.cumsum([0.0, *np.tile([0.01, 0.05], N)])[:N]
    film(tmp_path / "uneven.mp4", uneven)
    wanted = uneven[::2] + 0.004
    assert greys(read_frames(tmp_path / "uneven.mp4", wanted, tolerance)) == list(range(0, N, 2))
    for place, time in enumerate(wanted):
        assert greys(read_frames(tmp_path / "uneven.mp4", [time], tolerance)) == [2 * place]


@pytest.mark.parametrize("rate", [29.97, 28.0])
def test_a_drift_that_adds_up_over_many_short_episodes(tmp_path, rate):
    """No episode is half a frame off by itself; the last one begins more than a frame from where the lengths say."""
    features = {"image": {"dtype": "video", "shape": (32, 48, 3)}, "action": {"dtype": "float32", "shape": (2,)}}
    episodes, n = (40, 30) if rate > 29 else (12, 6)
    with DatasetWriter.create(tmp_path / "it", FPS, features, crf=5) as writer:
        for _ in range(episodes):
            writer.add_episode({"action": np.zeros((n, 2), np.float32)}, {"image": [grey(0)] * n}, "move")
    for episode, file in enumerate(data_files(tmp_path / "it")):
        cells(file, "timestamp", lambda _: (np.arange(n) / rate).astype(np.float32))
        film(tmp_path / f"it/videos/chunk-000/image/episode_{episode:06d}.mp4", np.arange(n) / rate, first=episode)
    convert_dataset(LeRobotDataset.open(tmp_path / "it"), tmp_path / "joined", "v3.0")
    joined = LeRobotDataset.open(tmp_path / "joined")
    assert abs(joined.episodes[-1].videos["image"].start - (episodes - 1) * n / FPS) > 1 / FPS
    assert greys(joined.images(episodes - 1, "image")) == list(range(episodes - 1, episodes - 1 + n))


def test_a_last_frame_that_is_shown_for_a_moment(tmp_path):
    """Ten frames a second picked from thirty: the last packet lasts a thirtieth."""
    path = write(tmp_path / "it", "v3.0")
    cells(episode_file(path), "videos/image/to_timestamp", lambda found: [found[0], found[1] - 0.8 / FPS])
    assert greys(LeRobotDataset.open(path).images(1, "image")) == list(range(N, 2 * N))


def test_an_earlier_episode_is_asked_where_a_later_one_begins(tmp_path):
    """The first piece is a frame short, and all later ones follow it: only the first one's rows tell."""
    path = write(tmp_path / "it", "v3.0", episodes=3)
    for name, frames in (("from_timestamp", (0, 23, 47)), ("to_timestamp", (23, 47, 71))):
        cells(episode_file(path), f"videos/image/{name}", lambda _, frames=frames: [frame / FPS for frame in frames])
    dataset = LeRobotDataset.open(path)
    with pytest.raises(DamagedError) as error:
        dataset.image(2, 0, "image")
    one_line(error, "episode 0, image", "the video has 0.7667 s for it")


def test_an_empty_episode_lies_nowhere_in_a_video(tmp_path):
    path = write(tmp_path / "it", "v3.0", episodes=3)
    rows = episode_file(path)
    for name in ("from_timestamp", "to_timestamp"):
        ends = {"from_timestamp": [0.0, 0.0, N / FPS], "to_timestamp": [N / FPS, 0.0, 2 * N / FPS]}[name]
        cells(rows, f"videos/image/{name}", lambda _, ends=ends: ends)
    cells(rows, "length", lambda _: [N, 0, N])
    cells(rows, "dataset_from_index", lambda _: [0, N, N])
    cells(rows, "dataset_to_index", lambda _: [N, N, 2 * N])
    info(path, total_frames=2 * N)
    (file,) = data_files(path)
    table = pq.ParquetFile(file).read()
    kept = [*range(N), *range(2 * N, 3 * N)]
    pq.write_table(table.take(kept), file)
    assert greys(LeRobotDataset.open(path).images(2, "image")) == list(range(N, 2 * N))


def test_a_picture_that_cannot_be_encoded_again(tmp_path, capsys):
    """An odd height fits no yuv420p: a cut between keyframes is refused in one line, and leaves nothing."""
    path = write(tmp_path / "it", "v3.0")
    with av.open(str(path / "videos/image/chunk-000/file-000.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"g": "60", "bf": "0", "crf": "5", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 47, 31, "yuv444p"
        for number in range(2 * N):
            out.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(grey(number)[:31, :47]), format="rgb24"))
            )
        out.mux(stream.encode())
    assert main(["convert", str(path), str(tmp_path / "new"), "--version", "v2.1"]) == 2
    assert (
        "have to be encoded again, which libx264 cannot do for a picture of 31x47"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert not (tmp_path / "new").exists()


SHIFTS = {
    # from_timestamp and to_timestamp of the three episodes, in frames, and what is said
    "one episode a frame late": ([(0, 24), (25, 48), (48, 72)], "from_timestamp is 0.833333 s"),
    "one episode a frame early": ([(0, 24), (23, 48), (48, 72)], "from_timestamp is 0.766667 s"),
    "one episode moved whole": ([(0, 24), (25, 49), (48, 72)], "from_timestamp is 0.833333 s"),
    "a seam moved": ([(0, 25), (25, 48), (48, 72)], "the video has 0.7667 s for it"),
    "a seam moved back": ([(0, 23), (23, 48), (48, 72)], "the video has 0.7667 s for it"),
    "the first does not begin the file": ([(1, 25), (25, 49), (49, 73)], "lengths before it in the file add up to 0 s"),
    "two in each other's place": ([(0, 24), (48, 72), (24, 48)], "from_timestamp is 1.6 s"),
}


@pytest.mark.parametrize(("spans", "said"), SHIFTS.values(), ids=SHIFTS)
def test_where_an_episode_begins_is_said_twice_and_compared(tmp_path, spans, said):
    path = write(tmp_path / "it", "v3.0", episodes=3)
    rows = episode_file(path)
    for name, part in (("from_timestamp", 0), ("to_timestamp", 1)):
        cells(rows, f"videos/image/{name}", lambda _, part=part: [span[part] / FPS for span in spans])

    def read():
        dataset = LeRobotDataset.open(path)
        return [greys(dataset.images(episode, "image")) for episode in range(3)]

    with pytest.raises(DamagedError) as error:
        read()
    one_line(error, "episode ", "image", said)
    found = summarise(gather(path))["anomalies"]["by_kind"]
    assert found.get("contradiction") or found.get("unreadable")


def test_a_wider_step_between_episodes_is_what_the_rows_say(tmp_path):
    """A film with spare frames between its episodes: rows, spans and film agree, though the lengths alone do not add up."""
    path = write(tmp_path / "it", "v3.0")
    film(path / "videos/image/chunk-000/file-000.mp4", np.arange(N + 4 + N) / FPS)
    rows = episode_file(path)
    cells(rows, "videos/image/from_timestamp", lambda _: [0.0, (N + 4) / FPS])
    cells(rows, "videos/image/to_timestamp", lambda _: [(N + 4) / FPS, (2 * N + 4) / FPS])
    dataset = LeRobotDataset.open(path)
    assert greys(dataset.images(0, "image")) == list(range(N))
    assert greys(dataset.images(1, "image")) == list(range(N + 4, 2 * N + 4))


def test_an_old_file_without_ends_is_read_by_its_beginnings(tmp_path):
    path = write(tmp_path / "it", "v3.0")
    rows = episode_file(path)
    cells(rows, "videos/image/to_timestamp", lambda found: [None] * len(found), pa.float64())
    assert greys(LeRobotDataset.open(path).images(1, "image")) == list(range(N, 2 * N))
