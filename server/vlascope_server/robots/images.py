"""Fits an image into the model's square without distortion, with black bars.

This is the resampler that the reference's policies see (openpi, openpi-client's image_tools.py): Pillow's bilinear filter
with antialiasing, rounded to uint8. Knows nothing of cameras; `resample.py` has the other one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def resize_with_pad(images: UInt8[np.ndarray, "*lead h w 3"], size: int) -> UInt8[np.ndarray, "*lead size size 3"]:
    """The largest copy that fits into `size` by `size` pixels, centred, zeros around it.

    An odd pixel of the bar goes below or to the right. An image of that size already is returned as it is.
    """
    height, width = images.shape[-3:-1]
    if (height, width) == (size, size):
        return images
    top, left, new_height, new_width = _inside(height, width, size)
    flat = images.reshape(-1, height, width, 3)
    out = np.zeros((len(flat), size, size, 3), np.uint8)
    for target, image in zip(out, flat, strict=True):
        resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
        target[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return out.reshape(*images.shape[:-3], size, size, 3)


def places_with_pad(
    places: Float[np.ndarray, "*lead 2"], height: int, width: int, size: int
) -> Float[np.ndarray, "*lead 2"]:
    """Where `resize_with_pad` puts places in an image; both as shares of the sides, from the left and from the top."""
    top, left, new_height, new_width = _inside(height, width, size)
    return (places * [new_width, new_height] + [left, top]) / size


def _inside(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the copy in the square."""
    ratio = max(height, width) / size
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    return (size - new_height) // 2, (size - new_width) // 2, new_height, new_width
