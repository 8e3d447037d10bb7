"""Fits images into the model's square as the reference does inside the model, for those that are not of its size yet.

The same as jax.image's antialiased linear filter (openpi, shared/image_tools.py), written as two small matrix products.
It is not Pillow's resampler: floats stay floats. Knows nothing of cameras.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

Images = UInt8[np.ndarray, "*lead h w 3"] | Float[np.ndarray, "*lead h w 3"]


def resample_with_pad(images: Images, size: int) -> Images:
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


def _weights(n: int, new: int) -> Float[np.ndarray, "new n"]:
    """Row i holds the shares of the old pixels in new pixel i: a triangle as wide as the coarser of the two grids."""
    scale = n / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(n)) / max(scale, 1.0)
    triangle = np.maximum(0.0, 1.0 - distance)
    return (triangle / triangle.sum(axis=1, keepdims=True)).astype(np.float32)
