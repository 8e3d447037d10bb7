"""Video files: written frame by frame, read at exact frames, cut and joined without decoding. Knows nothing of episodes."""

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
    """

    def __init__(self, path: Path, fps: float, shape: Sequence[int], crf: int = CRF):
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = self._container.add_stream(
            CODEC, rate=frame_rate(fps), options={"crf": str(crf), "g": str(GOP), "bf": "0"}
        )
        self._stream.height, self._stream.width = int(shape[0]), int(shape[1])
        self._stream.pix_fmt = "yuv420p"

    def add(self, image: np.ndarray) -> None:
        """Appends a uint8 [H, W, 3] image."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
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


def read_frames(path: Path, start: float, frames: Sequence[int] | np.ndarray, fps: float) -> np.ndarray:
    """Decodes frames of a video.

    Args:
        path: of the video.
        start: second at which frame 0 is.
        frames: which, in any order, also twice.
        fps: frames a second.

    Returns:
        uint8 [n, H, W, 3], in the order of `frames`.

    Raises:
        DatasetError: the file is missing.
        DamagedError: it is no video, or has no frame within half a frame of where one is asked for.
    """
    wanted = sorted({int(n) for n in frames})
    found: dict[int, np.ndarray] = {}
    with _opened(path) as (container, stream):
        # decoding all of a longer piece is what frame threads are good at; one frame would only wait for them
        stream.thread_type = "AUTO" if len(wanted) > 8 else "SLICE"
        decoder: Iterator[Any] = iter(())
        at = None
        for number in wanted:
            time = start + number / fps
            if at is None or number - at > 2 * GOP:
                container.seek(max(0, int((time - 0.5 / fps) / stream.time_base)), stream=stream)
                decoder = container.decode(stream)
            for frame in decoder:
                if frame.time is not None and frame.time > time - 0.5 / fps:
                    break
            else:
                raise DamagedError(f"{path}: ends before frame {number} at {time:.3f} s")
            if frame.time > time + 0.5 / fps:
                raise DamagedError(f"{path}: has no frame at {time:.3f} s; the next is at {frame.time:.3f} s")
            found[number], at = frame.to_ndarray(format="rgb24"), number
    return np.stack([found[int(n)] for n in frames]) if len(wanted) else np.empty((0, 0, 0, 3), np.uint8)


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


def _packets(container: Any, stream: Any, start: float, stop: float | None, fps: float) -> list[Any]:
    """Packets from `start` up to `stop` seconds, in the order of the file."""
    return [packet for inside, packet in _around(container, stream, start, stop, fps) if inside]


def _around(container: Any, stream: Any, start: float, stop: float | None, fps: float) -> Iterator[tuple[bool, Any]]:
    """Whether a packet is from `start` up to `stop` seconds, and the packet: those and some around, as the file has them."""
    half = 0.5 / fps
    if start:
        container.seek(max(0, int((start - half) / stream.time_base)), stream=stream)
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        time = float(packet.pts * stream.time_base)
        if stop is not None and packet.dts is not None and float(packet.dts * stream.time_base) > stop + 1:
            break
        yield time > start - half and (stop is None or time < stop - half), packet


def update_checksum(digest: Any, path: Path, start: float, length: int, fps: float) -> None:
    """Feeds the encoded frames from `start` seconds on into a hash: the same after copying, cutting and joining."""
    with _opened(path) as (container, stream):
        for packet in _packets(container, stream, start, start + length / fps, fps):
            digest.update(hashlib.blake2b(bytes(packet), digest_size=16).digest())


def extract(source: Path, target: Path, start: float, length: int, fps: float, *, alone: bool) -> str:
    """Writes `length` frames from `start` seconds on as a video of their own.

    Args:
        source: the video.
        target: to write.
        start: second of the first frame.
        length: frames.
        fps: frames a second.
        alone: the video holds these frames and no others: the file is copied.

    Returns:
        `copied`; `cut` where encoded frames were taken over as they are; `encoded again` where the first is no keyframe, or
        others lie among them.

    Raises:
        DatasetError: the file is missing.
        DamagedError: it is no video, or has fewer frames.
    """
    with _opened(source) as (container, stream):
        if alone:
            shutil.copyfile(source, target)
            return "copied"
        around = list(_around(container, stream, start, start + length / fps, fps))
        kept = [packet for inside, packet in around if inside]
        if len(kept) != length:
            raise DamagedError(f"{source}: expected {length} frames from {start:.3f} s on, found {len(kept)}")
        first = min(packet.pts for packet in kept)
        places = [place for place, (inside, _) in enumerate(around) if inside]
        # others among them are there because B-frames of these may be made of them
        alone_there = places[-1] - places[0] + 1 == length
        if kept[0].is_keyframe and kept[0].pts == first and alone_there:
            with av.open(str(target), "w", format="mp4") as out:
                copy = out.add_stream_from_template(stream, opaque=True)
                for packet in kept:
                    packet.pts -= first
                    packet.dts = None if packet.dts is None else packet.dts - first
                    packet.stream = copy
                    out.mux(packet)
            return "cut"
        shape = (stream.codec_context.height, stream.codec_context.width)
    writer = VideoWriter(target, fps, shape)
    for begin in range(0, length, 64):
        for image in read_frames(source, start, range(begin, min(begin + 64, length)), fps):
            writer.add(image)
    writer.close()
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

    def add(self, path: Path, length: int) -> float:
        """Appends the video at `path`, of `length` frames; returns the second at which its first frame is."""
        with _opened(path) as (container, stream):
            if self._stream is None:
                self._stream = self._out.add_stream_from_template(stream, opaque=True)
                self._kind = self._kind_of(stream)
            base = stream.time_base
            packets = _packets(container, stream, 0.0, None, float(self._fps))
            if len(packets) < length:
                raise DamagedError(f"{path}: expected {length} frames, found {len(packets)}")
            first, offset = min(packet.pts for packet in packets), self._end
            for packet in packets:
                packet.pts += offset - first
                packet.dts = max(self._dts + 1, offset + (packet.dts or 0) - first)
                self._dts = packet.dts
                packet.stream = self._stream
                self._out.mux(packet)
            self._end = offset + int(Fraction(len(packets)) / self._fps / base)
            return float(offset * base)

    def close(self) -> None:
        """Writes the file's index."""
        self._out.close()

    @staticmethod
    def _kind_of(stream: Any) -> tuple:
        context = stream.codec_context
        size = (context.width, context.height, context.pix_fmt)
        return (context.codec.name, *size, context.extradata, stream.time_base)
