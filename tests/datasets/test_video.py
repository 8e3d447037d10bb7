"""Frames come from exactly where they are; cutting and joining keep every encoded frame, or say that they could not."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import av
import numpy as np
import pytest
from vlascope_datasets import DamagedError, DatasetError
from vlascope_datasets.video import VideoJoiner, VideoWriter, describe, extract, read_frames, update_checksum

from tests.datasets.dataset_fixtures import one_line

SHAPE = (32, 48)


def grey(number: int) -> np.ndarray:
    return np.full((*SHAPE, 3), (10 + 37 * number) % 230, np.uint8)


def encode(path, count, fps=10.0, *, b_frames=False, gop=2, begin=0, crf=18):
    """A video of greys; with B-frames and rare keyframes where asked, as other encoders make them."""
    if not b_frames and gop == 2:
        writer = VideoWriter(path, fps, SHAPE, crf)
        for number in range(count):
            writer.add(grey(begin + number))
        writer.close()
        return path
    with av.open(str(path), "w") as out:
        options = {"g": str(gop), "bf": "3" if b_frames else "0", "b_strategy": "0", "sc_threshold": "0", "crf": "10"}
        stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width, stream.pix_fmt = *SHAPE, "yuv420p"
        for number in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey(begin + number), format="rgb24")))
        out.mux(stream.encode())
    return path


def at(start, frames, fps=10.0):
    """Seconds at which frames of an episode that begins at `start` are shown."""
    return [start + number / fps for number in frames]


def assert_greys(images, numbers):
    found = [int(np.median(image)) for image in images]
    assert np.abs(np.array(found) - [int(grey(n)[0, 0, 0]) for n in numbers]).max() <= 4, found


def checksum(path, start, count, fps):
    digest = hashlib.blake2b()
    update_checksum(digest, path, at(start, range(count), fps))
    return digest.hexdigest()


@pytest.mark.parametrize("fps", [10.0, 29.97, 50.0])
@pytest.mark.parametrize(("b_frames", "gop"), [(False, 2), (True, 12)])
def test_any_frame_is_that_frame(tmp_path, fps, b_frames, gop):
    path = encode(tmp_path / "v.mp4", 40, fps, b_frames=b_frames, gop=gop)
    assert describe(path)["frames"] == 40
    assert describe(path)["video.fps"] == pytest.approx(fps, abs=0.01)
    for number in (0, 39, 17, 1):
        assert_greys(read_frames(path, at(0.0, [number], fps)), [number])
    mixed = [3, 30, 3, 29, 0, 39]
    assert_greys(read_frames(path, at(0.0, mixed, fps)), mixed)
    assert_greys(read_frames(path, at(0.0, range(40), fps)), range(40))
    assert_greys(read_frames(path, at(20 / fps, [0, 5], fps)), [20, 25])


@pytest.mark.parametrize("b_frames", [False, True])
def test_join_then_cut_gives_back_every_encoded_frame(tmp_path, b_frames):
    parts = [
        encode(tmp_path / f"{n}.mp4", 7 + n, b_frames=b_frames, gop=12 if b_frames else 2, begin=20 * n)
        for n in range(3)
    ]
    joiner = VideoJoiner(tmp_path / "all.mp4", 10.0)
    assert all(joiner.fits(part) for part in parts)
    starts, stops = zip(*[joiner.add(part) for n, part in enumerate(parts)], strict=True)
    joiner.close()
    assert starts == pytest.approx([0, 0.7, 1.5])
    assert stops == pytest.approx([0.7, 1.5, 2.4])
    for n, part in enumerate(parts):
        assert_greys(
            read_frames(tmp_path / "all.mp4", at(starts[n], range(7 + n), 10.0)), range(20 * n, 20 * n + 7 + n)
        )
        back = tmp_path / f"back{n}.mp4"
        assert extract(tmp_path / "all.mp4", back, starts[n], at(starts[n], range(7 + n)), 10.0) == "cut"
        assert checksum(back, 0.0, 7 + n, 10.0) == checksum(part, 0.0, 7 + n, 10.0)
        assert checksum(back, 0.0, 7 + n, 10.0) == checksum(tmp_path / "all.mp4", starts[n], 7 + n, 10.0)
        assert_greys(read_frames(back, at(0.0, range(7 + n), 10.0)), range(20 * n, 20 * n + 7 + n))


def test_a_cut_between_keyframes_is_encoded_again(tmp_path):
    path = encode(tmp_path / "v.mp4", 20, gop=12)
    assert extract(path, tmp_path / "cut.mp4", 0.5, at(0.5, range(6)), 10.0) == "encoded again"
    assert describe(tmp_path / "cut.mp4")["frames"] == 6
    assert_greys(read_frames(tmp_path / "cut.mp4", at(0.0, range(6), 10.0)), range(5, 11))


@pytest.mark.parametrize("first", [5, 6, 7, 8, 9])
def test_a_cut_whose_b_frames_are_made_of_what_follows_is_encoded_again(tmp_path, first):
    """Two episodes in one stream, the second within a group of pictures: no cut loses what the first's last frames need."""
    path = encode(tmp_path / "v.mp4", 20, b_frames=True, gop=60)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        order = [round(float((packet.pts or 0) * (packet.time_base or 0)) * 10) for packet in packets]
    if order == sorted(order):
        pytest.skip("this encoder makes no B-frames")
    how = extract(path, tmp_path / "cut.mp4", 0.0, at(0.0, range(first)), 10.0)
    assert how == ("cut" if sorted(order[:first]) == list(range(first)) else "encoded again")
    assert describe(tmp_path / "cut.mp4")["frames"] == first
    assert_greys(read_frames(tmp_path / "cut.mp4", at(0.0, range(first), 10.0)), range(first))
    assert extract(path, tmp_path / "rest.mp4", first / 10, at(first / 10, range(20 - first)), 10.0) == "encoded again"
    assert_greys(read_frames(tmp_path / "rest.mp4", at(0.0, range(20 - first), 10.0)), range(first, 20))


def test_a_file_of_its_own_is_copied(tmp_path):
    path = encode(tmp_path / "v.mp4", 5)
    assert extract(path, tmp_path / "copy.mp4", 0.0, at(0.0, range(5)), 10.0) == "copied"
    assert (tmp_path / "copy.mp4").read_bytes() == path.read_bytes()


def test_other_settings_do_not_fit_into_one_file(tmp_path):
    joiner = VideoJoiner(tmp_path / "all.mp4", 10.0)
    joiner.add(encode(tmp_path / "a.mp4", 3))
    assert not joiner.fits(encode(tmp_path / "b.mp4", 3, b_frames=True, gop=12))
    assert not joiner.fits(encode(tmp_path / "c.mp4", 3, fps=25.0))
    joiner.close()


def test_errors_name_the_file_and_the_frame(tmp_path):
    path = encode(tmp_path / "v.mp4", 6)
    with pytest.raises(DamagedError) as error:
        read_frames(path, at(0.0, [9], 10.0))
    one_line(error, path, "ends before the frame at 0.9000 s")
    with pytest.raises(DatasetError) as error:
        read_frames(tmp_path / "none.mp4", at(0.0, [0], 10.0))
    one_line(error, "none.mp4", "missing")
    with pytest.raises(DamagedError) as error:
        extract(path, tmp_path / "x.mp4", 0.0, at(0.0, range(9)), 10.0)
    one_line(error, path, "expected 9", "found 6")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedError) as error:
        read_frames(path, at(0.0, [0], 10.0))
    one_line(error, path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DamagedError) as error:
        describe(tmp_path / "text.mp4")
    one_line(error, "text.mp4")
