"""The video of an episode, for people.

It shows both cameras side by side, the instruction and the step below. Its last second says how the episode ended, and so
does its name. It is gathered in memory (some hundred kilobytes) and written whole at the end: a disk that is full costs the
file, never the episode.
"""

from __future__ import annotations

import functools
import io
import textwrap
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from vlascope_base.files import replace_file

_LINE, _MARGIN = 16, 6
_BACKGROUND = {"": (0, 0, 0), "success": (0, 100, 40), "failure": (150, 20, 20)}
"""Colours of the caption's strip: while the episode runs, and for each end."""


def outcome(success: bool) -> str:
    """The word for how an episode ended, in the name of its video and in its picture."""
    return "success" if success else "failure"


def video_path(folder: Path, name: str, success: bool) -> Path:
    """Where an episode's video lies.

    Args:
        folder: of videos.
        name: the episode's within its campaign.
        success: how it ended.
    """
    return folder / f"{name}-{outcome(success)}.mp4"


class VideoRecorder:
    """Frames to an H.264 video in an MP4 file.

    Args:
        caption: shown below every frame.
        fps: frames a second; that of the simulation for real time.
    """

    def __init__(self, caption: str, fps: int):
        self._caption = caption
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "veryfast"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.thread_count = 1
        self._fps = fps
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._open = True

    def add(self, image: np.ndarray, wrist_image: np.ndarray, step: int) -> None:
        """Adds a frame: two pictures uint8 [size, size, 3] of the moment before step `step`."""
        picture = self._compose(image, wrist_image, f"step {step}")
        if self._last is None:
            self._stream.width, self._stream.height = picture.shape[1], picture.shape[0]
        self._last = image, wrist_image
        self._encode(picture)

    def end(self, success: bool) -> None:
        """Shows the last picture for one second more, with how the episode ended on a green or a red strip."""
        if self._last is not None:
            picture = self._compose(*self._last, outcome(success), outcome(success))
            for _ in range(self._fps):
                self._encode(picture)

    def write(self, path: Path) -> bool:
        """Ends the video and writes the file, whole or not at all.

        Returns:
            Whether there is a file; without frames there is none.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        if self._last is None:
            self.discard()
            return False
        replace_file(path, self._finish())
        return True

    def discard(self) -> None:
        """Ends the video and keeps nothing; a second call does nothing."""
        if self._open:
            self._open = False
            self._container.close()

    def _finish(self) -> bytes:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self.discard()
        return self._file.getvalue()

    def _encode(self, picture: np.ndarray) -> None:
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture)):
            self._container.mux(packet)

    def _compose(self, image: np.ndarray, wrist_image: np.ndarray, said: str, ended: str = "") -> np.ndarray:
        pictures = np.concatenate([image, wrist_image], axis=1)
        height, width = (n - n % 2 for n in pictures.shape[:2])
        strip = _strip(self._caption, width, _BACKGROUND[ended]).copy()
        draw = ImageDraw.Draw(strip)
        draw.text((width - _MARGIN, _MARGIN), said, "white", _font(), anchor="ra")
        return np.concatenate([pictures[:height, :width], np.asarray(strip)], axis=0)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


@functools.lru_cache(maxsize=4)
def _strip(caption: str, width: int, background: tuple[int, int, int]) -> Image.Image:
    lines = textwrap.wrap(caption, max(10, (width - 80) // 7))[:4] or [""]
    strip = Image.new("RGB", (width, 2 * _MARGIN + _LINE * len(lines)), background)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + _LINE * number), line, "white", _font())
    return strip
