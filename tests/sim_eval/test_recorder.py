"""A video shows both cameras in order and how its episode ended, and a full disk costs the video alone."""

from __future__ import annotations

import errno
import os

import av
import numpy as np
import pytest
from vlascope_sim.rollout.recorder import VideoRecorder, video_path


def record(frames: int, size: int = 64) -> VideoRecorder:
    recorder = VideoRecorder("put the bowl on the plate", 4)
    for k in range(frames):
        recorder.add(
            np.full((size, size, 3), (200, 10 * k, 0), np.uint8),
            np.full((size, size, 3), (0, 10 * k, 200), np.uint8),
            5 * k,
        )
    return recorder


@pytest.mark.parametrize("size", [64, 63])
def test_frames_come_back_in_order_scene_left_and_wrist_right(tmp_path, size):
    assert record(8, size).write(tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.video[0].average_rate == 4
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 8
    for k, frame in enumerate(frames):
        height = size - size % 2
        assert frame.shape[0] > height  # the caption's strip
        np.testing.assert_allclose(frame[10:50, 10:50].mean((0, 1)), (200, 10 * k, 0), atol=12)
        np.testing.assert_allclose(frame[10:50, size + 10 : size + 50].mean((0, 1)), (0, 10 * k, 200), atol=12)
    assert frames[0][height + 4 :].max() > 150  # white letters
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def strips(path) -> list[np.ndarray]:
    """Of each frame a part of the caption's strip where no letters are."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24")[-4:].mean((0, 1)) for frame in file.decode(video=0)]


@pytest.mark.parametrize(("success", "channel"), [(True, 1), (False, 0)])
def test_the_last_second_and_the_name_say_how_it_ended(tmp_path, success, channel):
    recorder = record(8)
    recorder.end(success)
    path = video_path(tmp_path, "task00-episode000", success)
    assert path.name == f"task00-episode000-{'success' if success else 'failure'}.mp4"
    assert recorder.write(path)
    found = strips(path)
    assert len(found) == 8 + 4  # four frames a second
    assert all(strip.max() < 30 for strip in found[:8])
    for strip in found[8:]:
        assert strip.argmax() == channel
        assert strip.max() > 60
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    np.testing.assert_allclose(frames[-1][10:50, 10:50].mean((0, 1)), (200, 70, 0), atol=12)


def test_no_frames_are_no_video(tmp_path):
    recorder = VideoRecorder("x", 4)
    recorder.end(True)
    assert not recorder.write(tmp_path / "v.mp4")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as error:
        record(3).write(tmp_path / "v.mp4")
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
