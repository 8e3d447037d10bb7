"""Fits images into the model's square without distortion, with black bars, by the two resamplers of the reference.

`resize_with_pad` is what its policies see (openpi, openpi-client's image_tools.py): Pillow's bilinear filter with
antialiasing, rounded to uint8. `resample_with_pad` is what it does inside the model with images that are not of its size yet:
jax.image's antialiased linear filter (openpi, shared/image_tools.py), written as two small matrix products; floats stay floats.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Images = UInt8[np.ndarray, "*lead h w 3"] | Float[np.ndarray, "*lead h w 3"]
Square = UInt8[np.ndarray, "*lead {size} {size} 3"] | Float[np.ndarray, "*lead {size} {size} 3"]


def resize_with_pad(images: UInt8[np.ndarray, "*lead h w 3"], size: int) -> UInt8[np.ndarray, "*lead {size} {size} 3"]:
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


def resample_with_pad(images: Images, size: int) -> Square:
    """The largest copy that fits into `size` by `size` pixels, centred, black around it; the dtype stays.

    Args:
        images: uint8, or float32 in [-1, 1], where black is -1.

    Raises:
        ValueError: another dtype.
    """
    if images.dtype not in (np.uint8, np.float32):
        raise ValueError(f"images: expected uint8, or float32 in [-1, 1], found {images.dtype}")
    height, width = images.shape[-3:-1]
    ratio = max(height, width) / size
    rows, columns = (_weights(n, max(1, int(n / ratio))) for n in (height, width))
    resized = np.einsum("hH,wW,...HWc->...hwc", rows, columns, images.astype(np.float32), optimize=True)
    if images.dtype == np.uint8:
        low, high, resized = 0, 255, np.round(resized)
    else:
        low, high = -1, 1
    top, left = (size - len(rows)) // 2, (size - len(columns)) // 2
    out = np.full((*images.shape[:-3], size, size, images.shape[-1]), low, images.dtype)
    out[..., top : top + len(rows), left : left + len(columns), :] = np.clip(resized, low, high)
    return out


def _inside(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the copy in the square."""
    ratio = max(height, width) / size
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    return (size - new_height) // 2, (size - new_width) // 2, new_height, new_width


def _weights(n: int, new: int) -> Float[np.ndarray, "new n"]:
    """Row i holds the shares of the old pixels in new pixel i: a triangle as wide as the coarser of the two grids."""
    scale = n / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(n)) / max(scale, 1.0)
    triangle = np.maximum(0.0, 1.0 - distance)
    return (triangle / triangle.sum(axis=1, keepdims=True)).astype(np.float32)
