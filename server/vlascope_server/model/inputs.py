"""What one inference sees, as the model takes it: resized images, a padded state, token numbers.

Reading the robot, tokenising the prompt and normalising have happened before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8
from vlascope_base import VlascopeError

from vlascope_server.model.config import Pi0Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """A batch of model inputs; a pytree.

    Attributes:
        images: camera -> uint8 pixels, or float32 in [-1, 1]. May hold cameras that the configuration leaves out.
        image_masks: camera -> whether this sample has the camera. A masked camera's tokens are computed but seen by nobody.
        state: normalised robot state, zero-padded to the model's width.
        prompt: token numbers, 0 where padded.
        prompt_mask: true for real tokens, false for padding.
    """

    images: Mapping[str, UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]]
    image_masks: Mapping[str, Bool[Array, " B"]]
    state: Float[Array, "B a"]
    prompt: Int[Array, "B n"]
    prompt_mask: Bool[Array, "B n"]

    @property
    def batch_size(self) -> int:
        """Samples in the batch."""
        return self.state.shape[0]


class ModelInputsError(VlascopeError):
    """Inputs that do not fit the model; the message names the field, what was expected and what was found."""


def check_inputs(inputs: ModelInputs, config: Pi0Config) -> None:
    """Raises `ModelInputsError` where an array's shape or dtype is not the model's. Looks at shapes only, never at values."""
    B, size = inputs.batch_size, config.vision.image_size
    for camera in config.cameras:
        for field, found in (("images", inputs.images), ("image_masks", inputs.image_masks)):
            if camera not in found:
                raise ModelInputsError(f"{field}: camera {camera!r} is missing; the policy sees {list(config.cameras)}")
        _expect(f"images[{camera!r}]", inputs.images[camera], (B, size, size, 3), ("uint8", "float32"))
        _expect(f"image_masks[{camera!r}]", inputs.image_masks[camera], (B,), ("bool",))
    _expect("state", inputs.state, (B, config.action_dim), ("float32",))
    _expect("prompt", inputs.prompt, (B, config.max_token_len), ("int32",))
    _expect("prompt_mask", inputs.prompt_mask, (B, config.max_token_len), ("bool",))


def pixels(image: UInt8[Array, "*shape"] | Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels in [-1, 1] as float32: uint8 is mapped linearly, float32 passes."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0 * 2.0 - 1.0
    return image


def _expect(field: str, array: jax.Array, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    if array.shape != shape:
        raise ModelInputsError(f"{field}: expected shape {shape}, found {array.shape}")
    if str(array.dtype) not in dtypes:
        raise ModelInputsError(f"{field}: expected {' or '.join(dtypes)}, found {array.dtype}")
