"""Random changes to images that leave what is to be done the same: shifts, brightness, contrast, saturation.

B images, H and W pixels. They run on the device; the same key changes an image in the same way. A wrist camera moves with the
arm, so its images are not shifted (as in the reference).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vlascope_server.model.inputs import pixels

_BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.2, 0.2
"""Factors lie in 1 minus to 1 plus these."""
_GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance (ITU-R BT.601)."""


def augment_images(
    key: jax.Array, images: dict[str, UInt8[Array, "B H W 3"]], share: float
) -> tuple[dict[str, Float[Array, "B H W 3"]], dict[str, Float[Array, "B 2"]]]:
    """Changes each image by itself; `share` as for `shift`.

    Returns:
        Camera -> images in [-1, 1]; and camera -> how far each was moved to the left and up, as shares of its side.
    """
    changed, moves = {}, {}
    for number, (camera, batch) in enumerate(sorted(images.items())):
        shift_key, colour_key = jax.random.split(jax.random.fold_in(key, number))
        batch, moves[camera] = shift(shift_key, batch, 0.0 if "wrist" in camera else share)
        changed[camera] = jitter(colour_key, pixels(batch))
    return changed, moves


def shift(
    key: jax.Array, images: UInt8[Array, "B H W 3"], share: float
) -> tuple[UInt8[Array, "B H W 3"], Float[Array, "B 2"]]:
    """Moves each image by up to a share of its side in both directions; the edge repeats where nothing is known.

    Returns:
        The images, and how far each was moved to the left and up, as shares of its side.
    """
    B, H, W, _ = images.shape
    reach = round(share * H)
    if not reach:
        return images, jnp.zeros((B, 2))
    moves = jax.random.randint(key, (B, 2), -reach, reach + 1)

    def move(image: jax.Array, by: jax.Array) -> jax.Array:
        rows, columns = jnp.clip(jnp.arange(H) + by[0], 0, H - 1), jnp.clip(jnp.arange(W) + by[1], 0, W - 1)
        return image[rows][:, columns]

    return jax.vmap(move)(images, moves), moves[:, ::-1].astype(jnp.float32) / jnp.array([W, H], jnp.float32)


def jitter(key: jax.Array, images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Brightness, contrast and saturation, each by up to 20 %; images float32 in [-1, 1], and they stay in it."""
    B = images.shape[0]
    reach = jnp.array([_BRIGHTNESS, _CONTRAST, _SATURATION])
    factors = 1 + reach[:, None] * jax.random.uniform(key, (3, B), minval=-1.0, maxval=1.0)
    brightness, contrast, saturation = factors[:, :, None, None, None]
    x = (images + 1) / 2 * brightness
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    x = mean + contrast * (x - mean)
    grey = jnp.sum(x * jnp.array(_GREY), axis=-1, keepdims=True)
    return jnp.clip(grey + saturation * (x - grey), 0.0, 1.0) * 2 - 1
