"""Images in a table: PNG (or any format that Pillow reads) to arrays and back."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from vlascope_datasets.errors import DamagedError, DatasetError, UnreadError

PNG_LEVEL = 3
_EXACT = "1", "L", "P", "RGB", "YCbCr"
"""Pillow's modes that RGB holds without loss; YCbCr is how a JPEG says RGB."""


def checked_images(key: str, shape: list[int], length: int, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """An episode's images of one camera, each uint8 [H, W, 3].

    Raises:
        DatasetError: an image of another shape or dtype, or another number of images than `length`.
    """
    count = 0
    for count, image in enumerate(images, 1):
        image = np.asarray(image)
        if image.dtype != np.uint8 or list(image.shape) != shape:
            raise DatasetError(
                f"{key}: frame {count - 1}: expected uint8 {tuple(shape)}, found {image.dtype} {image.shape}"
            )
        if count > length:
            break
        yield image
    if count != length:
        raise DatasetError(f"{key}: expected {length} images, one a frame, found {'more' if count > length else count}")


def encode(image: np.ndarray) -> bytes:
    """A uint8 [H, W, 3] image as PNG: lossless."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=PNG_LEVEL)
    return out.getvalue()


def decode(content: bytes, where: str) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3]: colour as it is, grey in all three channels.

    Raises:
        DamagedError: it is none; the message starts with `where`.
        UnreadError: it holds what three channels of eight bits cannot: a depth map, transparency, other colours.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            # Pillow clips 16 bits of colour to 8 while it decodes; only what it is about to decode says so
            raw = " ".join(str(tile[3]) for tile in image.tile)
            mode = f"{image.mode} with {raw}" if ";16" in raw or ";12" in raw else _mode(image)
            if mode in _EXACT:
                return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedError(f"{where}: no image ({error})") from error
    raise UnreadError(
        f"{where}: an image of mode {mode}, which is not read: eight bits of colour or grey are; it can be copied as it is"
    )


def check(content: bytes, where: str) -> None:
    """Refuses what is no image, and a PNG that its own checksums contradict; decodes nothing.

    Raises:
        DamagedError: it is none; the message starts with `where`.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedError(f"{where}: no image ({error})") from error


def _mode(image: Image.Image) -> str:
    """Pillow's mode of an image; one whose transparency hides nothing is what it is without."""
    if image.mode not in ("RGBA", "LA") and "transparency" not in image.info:
        return image.mode
    if image.convert("RGBA").getchannel("A").getextrema() == (255, 255):
        return image.mode.removesuffix("A")
    return f"{image.mode} with transparency"


def column(encoded: list[bytes], paths: list[str] | None = None) -> pa.StructArray:
    """Encoded images as the column of a data file: {bytes, path}, with the paths that LeRobot gives them, or others."""
    names = [f"frame_{n:06d}.png" for n in range(len(encoded))] if paths is None else paths
    return pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.array(names, pa.string())], names=["bytes", "path"]
    )


def content(value: object, root: Path, where: str) -> bytes:
    """The encoded image of one cell: its bytes, alone or beside a path, or those of the file that it names inside the dataset.

    Raises:
        DamagedError: it has neither.
    """
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes) and value["bytes"]:
            return value["bytes"]
        # a download keeps its files elsewhere, and links in the dataset's folder
        if isinstance(value.get("path"), str) and value["path"]:
            path = Path(value["path"])
            if not path.is_absolute() and ".." not in path.parts and (root / path).is_file():
                return (root / path).read_bytes()
    raise DamagedError(f"{where}: holds no image")
