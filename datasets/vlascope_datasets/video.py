"""Video files: written frame by frame, read at exact times, cut and joined without decoding.

A frame is found by its time in seconds, as LeRobot finds it: the frame that is shown within `TOLERANCE` of it. There is no
second best: a neighbour is another moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from vlascope_datasets.errors import DamagedError, DatasetError

CODEC = "libx264"
CRF = 23
GOP = 2
TOLERANCE = 1e-4
"""Seconds that a frame may be off the time at which it is asked for: LeRobot's `tolerance_s`."""
_TICKS = 90_000
"""A second, in a video whose frames are not evenly spaced."""
_REORDERED = 1.0
"""Seconds by which frames may be stored before or after those that they are shown with; B-frames are."""


def frame_rate(fps: float) -> Fraction:
    """Frames a second, exactly, so that a frame's time is a whole number of ticks."""
    return Fraction(fps).limit_denominator(100_000)


class VideoWriter:
    """Encodes H.264, yuv420p, a keyframe every other frame (so that any frame is two decodes away) and no B-frames.

    Args:
        path: an `.mp4` to be.
        fps: frames a second.
        shape: height and width; both even.
        crf: constant rate factor: 0 is lossless, 51 the smallest; 23 is x264's own choice.
        timed: every frame is given its own time; otherwise frame n is at n / fps.
    """

    def __init__(self, path: Path, fps: float, shape: Sequence[int], crf: int = CRF, *, timed: bool = False):
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = self._container.add_stream(
            CODEC, rate=frame_rate(fps), options={"crf": str(crf), "g": str(GOP), "bf": "0"}
        )
        self._stream.height, self._stream.width = int(shape[0]), int(shape[1])
        self._stream.pix_fmt = "yuv420p"
        self._timed = timed
        if timed:
            self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def add(self, image: np.ndarray, time: float = 0.0) -> None:
        """Appends a uint8 [H, W, 3] image, at `time` seconds where frames are timed."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self._timed:
            frame.pts, frame.time_base = round(time * _TICKS), Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is still held back, and the file's index."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def abandon(self) -> None:
        """Closes without caring what the file holds."""
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            self._container.close()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    if not path.is_file():
        raise DatasetError(f"{path}: missing")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DamagedError(f"{path}: holds no video")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise DamagedError(f"{path}: no readable video ({error.strerror or error})") from error


def read_frames(path: Path, times: Sequence[float] | np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Decodes frames of a video.

    Args:
        path: of the video.
        times: at which second each frame is shown, in any order, also twice.
        tolerance: seconds that a frame may be off.

    Returns:
        uint8 [n, H, W, 3], in the order of `times`.

    Raises:
        DatasetError: the file is missing.
        DamagedError: it is no video, or shows no frame within `tolerance` of a time.
    """
    wanted = np.unique(np.asarray(times, np.float64)).tolist()
    if not wanted:
        return np.empty((0, 0, 0, 3), np.uint8)
    found: dict[float, np.ndarray] = {}
    with _opened(path) as (container, stream):
        # decoding all of a longer piece is what frame threads are good at; one frame would only wait for them
        stream.thread_type = "AUTO" if len(wanted) > 8 else "SLICE"
        gap = 2 * GOP / float(stream.average_rate or 30)
        film = _Film(container, stream)
        for time in wanted:
            if film.here is None or not time - gap <= film.here.time <= time + TOLERANCE:
                frame = _sought(film, time, tolerance)
            else:
                frame = film.nearest(time)
            if frame is None or (film.ended and frame.time < time - tolerance):
                raise DamagedError(f"{path}: ends before the frame at {time:.4f} s")
            if abs(frame.time - time) > tolerance:
                raise DamagedError(
                    f"{path}: shows no frame within {tolerance:.2g} s of {time:.4f} s; the nearest is at {frame.time:.4f} s"
                )
            found[time] = frame.to_ndarray(format="rgb24")
    return np.stack([found[time] for time in np.asarray(times, np.float64).tolist()])


class _Film:
    """Frames of a video in the order in which they are shown.

    Attributes:
        here: the frame that was found last; None at first.
        behind: whether frames before `here` were decoded too since the last seek.
        ended: whether there is none after `here`.
    """

    def __init__(self, container: Any, stream: Any):
        self.here: Any = None
        self.behind = self.ended = False
        self._container, self._stream = container, stream
        self._decoder: Iterator[Any] = iter(())
        self._ahead: Any = None

    def seek(self, begin: float | None) -> None:
        """Goes to a keyframe that is stored at or before `begin` seconds; None is the beginning of the file."""
        start = self._stream.start_time or 0
        at = start if begin is None else max(start, int(begin / self._stream.time_base))
        self._container.seek(at, stream=self._stream)
        self._decoder, self.here, self._ahead, self.behind = self._container.decode(self._stream), None, None, False
        self.ended = False

    def nearest(self, time: float) -> Any:
        """The frame from here on that is shown nearest to `time`; None where there is no frame left."""
        while self.here is None or abs(self.here.time - time) > TOLERANCE:
            while self._ahead is None or self._ahead.time is None:
                self._ahead = next(self._decoder, None)
                if self._ahead is None:
                    self.ended = True
                    return self.here
            if self.here is not None and abs(self.here.time - time) <= abs(self._ahead.time - time):
                return self.here
            self.behind = self.here is not None
            self.here, self._ahead = self._ahead, None
        return self.here


def _sought(film: _Film, time: float, tolerance: float) -> Any:
    """The frame nearest to `time`, wherever the film is.

    A seek may land on a keyframe behind frames that are shown before it: then the search begins further back, at last at the
    beginning.
    """
    frame = None
    for begin in (time - tolerance, time - _REORDERED, None):
        film.seek(begin)
        frame = film.nearest(time)
        if (
            frame is not None
            and abs(frame.time - time) <= tolerance
            and (film.behind or frame.time <= time + TOLERANCE)
        ):
            break
    return frame


def describe(path: Path) -> dict[str, Any]:
    """What LeRobot keeps in a video feature's `info`, and `frames`, read off the packets without decoding."""
    with _opened(path) as (container, stream):
        frames = sum(1 for packet in container.demux(stream) if packet.size)
        context = stream.codec_context
        return {
            "video.height": context.height,
            "video.width": context.width,
            "video.codec": context.codec.canonical_name,
            "video.pix_fmt": context.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": float(stream.average_rate or 0),
            "video.channels": 3,
            "has_audio": bool(container.streams.audio),
            "frames": frames,
        }


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets that hold a frame, in the order of the file."""
    return (packet for packet in container.demux(stream) if packet.size and packet.pts is not None)


def _around(container: Any, stream: Any, times: np.ndarray, tolerance: float) -> Iterator[tuple[bool, Any]]:
    """Whether a packet is shown at one of `times` (ascending), and the packet: those and some around, as the file has them."""
    if times[0] > _REORDERED:
        container.seek(int((times[0] - _REORDERED) / stream.time_base), stream=stream)
    for packet in _packets(container, stream):
        time = float(packet.pts * stream.time_base)
        if packet.dts is not None and float(packet.dts * stream.time_base) > times[-1] + _REORDERED:
            break
        place = np.searchsorted(times, time - tolerance)
        yield bool(place < len(times) and times[place] <= time + tolerance), packet


def update_checksum(digest: Any, path: Path, times: Sequence[float] | np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Feeds the encoded frames that are shown at `times` into a hash: the same after copying, cutting and joining."""
    wanted = np.unique(np.asarray(times, np.float64))
    if not len(wanted):
        return
    with _opened(path) as (container, stream):
        for inside, packet in _around(container, stream, wanted, tolerance):
            if inside:
                digest.update(hashlib.blake2b(bytes(packet), digest_size=16).digest())


def extract(
    source: Path, target: Path, start: float, times: Sequence[float] | np.ndarray, fps: float,
    tolerance: float = TOLERANCE, *, again: bool = True,
) -> str:  # fmt: skip
    """Writes the frames that are shown at some times as a video of their own, which begins at `start`.

    Args:
        source: the video.
        target: to write; a frame at `start` is at second 0 of it.
        start: second of `source`.
        times: second of each frame in `source`, ascending.
        fps: frames a second.
        tolerance: seconds that a frame may be off.
        again: whether frames may be decoded and encoded again, where they cannot be taken over as they are.

    Returns:
        `copied` where the file holds these frames alone; `cut` where encoded frames were taken over as they are; `encoded
        again` where the first is no keyframe, or others lie among them.

    Raises:
        DatasetError: the file is missing, or the frames cannot be taken over as they are and `again` is false.
        DamagedError: it is no video, or shows none at one of the times.
    """
    wanted = np.unique(np.asarray(times, np.float64))
    with _opened(source) as (container, stream):
        around = list(_around(container, stream, wanted, tolerance))
        kept = [packet for inside, packet in around if inside]
        if len(kept) != len(wanted):
            raise DamagedError(
                f"{source}: expected {len(wanted)} frames from {wanted[0]:.3f} s to {wanted[-1]:.3f} s, each within"
                f" {tolerance:.2g} s of its row's timestamp; found {len(kept)}"
            )
        if start == 0 and len(around) == len(kept) == describe(source)["frames"]:
            shutil.copyfile(source, target)
            return "copied"
        first = min(packet.pts for packet in kept)
        places = [place for place, (inside, _) in enumerate(around) if inside]
        # others among them are there because B-frames of these may be made of them
        alone_there = places[-1] - places[0] + 1 == len(kept)
        if kept[0].is_keyframe and kept[0].pts == first and alone_there:
            moved = round(Fraction(start) / stream.time_base)
            with av.open(str(target), "w", format="mp4") as out:
                copy = out.add_stream_from_template(stream, opaque=True)
                for packet in kept:
                    packet.pts -= moved
                    packet.dts = None if packet.dts is None else packet.dts - moved
                    packet.stream = copy
                    out.mux(packet)
            return "cut"
        shape = (stream.codec_context.height, stream.codec_context.width)
    if not again:
        raise DatasetError(
            f"{source}: the frames from {wanted[0]:.3f} s on cannot be cut out without encoding them again, which would change"
            " what they hold"
        )
    evenly = np.abs(wanted - start - np.arange(len(wanted)) / fps).max() <= tolerance
    writer = VideoWriter(target, fps, shape, timed=not evenly)
    try:
        for begin in range(0, len(wanted), 64):
            part = wanted[begin : begin + 64]
            for time, image in zip(part.tolist(), read_frames(source, part, tolerance), strict=True):
                writer.add(image, time - start)
        writer.close()
    except av.error.FFmpegError as error:
        writer.abandon()
        raise DatasetError(
            f"{source}: the frames from {wanted[0]:.3f} s on have to be encoded again, which {CODEC} cannot do for a picture of"
            f" {shape[0]}x{shape[1]} ({error.strerror or error})"
        ) from error
    return "encoded again"


class VideoJoiner:
    """Joins videos of one encoder's settings into one file, without decoding.

    Args:
        path: to write.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float):
        self._out = av.open(str(path), "w", format="mp4")
        self._fps = frame_rate(fps)
        self._stream: Any = None
        self._kind: Any = None
        self._end = 0
        self._dts = -1

    def fits(self, path: Path) -> bool:
        """Whether the video at `path` was encoded as those already in: one stream has one set of parameters."""
        with _opened(path) as (_, stream):
            return self._kind is None or self._kind == self._kind_of(stream)

    def add(self, path: Path) -> tuple[float, float]:
        """Appends the video at `path`; returns the seconds at which it begins, and at which it ends."""
        with _opened(path) as (container, stream):
            if self._stream is None:
                self._stream = self._out.add_stream_from_template(stream, opaque=True)
                self._kind = self._kind_of(stream)
            base = stream.time_base
            packets = list(_packets(container, stream))
            if not packets:
                raise DamagedError(f"{path}: holds no frame")
            offset = self._end
            for packet in packets:
                packet.pts += offset
                packet.dts = max(self._dts + 1, offset + (packet.dts or 0))
                self._dts = packet.dts
                packet.stream = self._stream
                self._out.mux(packet)
            last = max(packets, key=lambda packet: packet.pts)
            self._end = last.pts + (last.duration or round(1 / self._fps / base))
            return float(offset * base), float(self._end * base)

    def close(self) -> None:
        """Writes the file's index."""
        self._out.close()

    @staticmethod
    def _kind_of(stream: Any) -> tuple:
        context = stream.codec_context
        size = (context.width, context.height, context.pix_fmt)
        return (context.codec.name, *size, context.extradata, stream.time_base)
