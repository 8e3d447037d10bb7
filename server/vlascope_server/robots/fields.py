"""Takes images, vectors and the prompt out of an observation that a client sent, and checks each.

Which keys a robot has, and what its numbers mean, each robot says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vlascope_server.robots.contract import RobotInputError


def take(observation: Mapping[str, Any], key: str, inside: str = "") -> Any:
    """`observation[key]`; `inside` is the path of `observation` itself, for the message.

    Raises:
        RobotInputError: there is no such key; lists those that there are.
    """
    if not isinstance(observation, Mapping):
        raise RobotInputError(
            inside.rstrip("/") or "observation", f"expected a map, found {type(observation).__name__}"
        )
    if key not in observation:
        raise RobotInputError(f"{inside}{key}", f"missing; found {sorted(map(str, observation))}")
    return observation[key]


def take_prompt(observation: Mapping[str, Any]) -> str:
    """The instruction: a string, or an array that holds one. An empty string is an instruction too.

    Raises:
        RobotInputError: it is missing or no string.
    """
    prompt = take(observation, "prompt")
    if isinstance(prompt, np.ndarray) and prompt.ndim == 0:
        prompt = prompt.item()
    if not isinstance(prompt, str):
        raise RobotInputError("prompt", f"expected the instruction as a string, found {type(prompt).__name__}")
    return prompt


def take_vector(observation: Mapping[str, Any], key: str, width: int) -> Float[np.ndarray, " width"]:
    """A vector of finite numbers; floating dtypes pass unchanged, integers become float64.

    Raises:
        RobotInputError: it is missing, of another width, no numbers, or not finite.
    """
    value = take(observation, key)
    try:
        value = np.asarray(value)
    except ValueError:  # a ragged list
        raise RobotInputError(key, f"expected {width} numbers, found a ragged sequence") from None
    if value.dtype.kind not in "fiu":
        raise RobotInputError(key, f"expected {width} numbers, found dtype {value.dtype}")
    if value.ndim == 0 and width == 1:
        value = value[None]
    if value.shape != (width,):
        raise RobotInputError(key, f"expected shape ({width},), found {value.shape}")
    if not np.isfinite(value).all():
        index = int(np.argmin(np.isfinite(value)))
        raise RobotInputError(key, f"number {index} is {value[index]}; expected finite numbers")
    return value if value.dtype.kind == "f" else value.astype(np.float64)


def take_image(observation: Mapping[str, Any], key: str, inside: str = "") -> UInt8[np.ndarray, "H W 3"]:
    """One RGB image as uint8 with channels last.

    Channels may come first or last. Floats are read as [0, 1] and truncated to 255ths, not rounded: so the reference does
    (openpi, policies/libero_policy.py), and a policy trained on its pixels sees the same.

    Raises:
        RobotInputError: it is missing, not one RGB image, of an ambiguous layout, or of another dtype or range.
    """
    field = f"{inside}{key}"
    try:
        image = np.asarray(take(observation, key, inside))
    except ValueError as error:
        if isinstance(error, RobotInputError):
            raise
        raise RobotInputError(field, "expected one RGB image, found a ragged sequence") from None
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[-1]) or 0 in image.shape:
        raise RobotInputError(
            field, f"expected one RGB image, (height, width, 3) or (3, height, width), found {image.shape}"
        )
    if image.shape[0] == image.shape[-1] == 3:
        raise RobotInputError(field, f"shape {image.shape} does not tell whether channels come first or last")
    if image.dtype.kind == "f":
        # outside this range the truncated value would wrap around
        if not (image.min() > -1 / 255 and image.max() < 256 / 255):
            raise RobotInputError(field, f"floats must lie in [0, 1], found {image.min():g} to {image.max():g}")
        image = (255 * image).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise RobotInputError(field, f"expected uint8 in [0, 255] or floats in [0, 1], found dtype {image.dtype}")
    return image.transpose(1, 2, 0) if image.shape[0] == 3 else image
