"""`drawn:SEED`: freshly drawn weights in the place of a checkpoint's own.

They are a control for probes: what is found in them, training did not put there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from vlascope_server.checkpoints.boxes import Box
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.weights import Weights, dtype_of
from vlascope_server.model import draw_parameter

_PREFIX = "drawn:"
_LARGEST = 2**63 - 1


def is_drawn(location: str) -> bool:
    """Whether a location asks for drawn weights rather than saying where some lie."""
    return location.startswith(_PREFIX)


def drawn_seed(location: str, like: str | None) -> int | None:
    """The seed of `drawn:SEED`; None for a location that says where weights lie.

    Args:
        location: of a checkpoint.
        like: the checkpoint that lends drawn weights everything else.

    Raises:
        CheckpointError: the seed is none, or `like` is given where nothing is drawn, or missing where something is.
    """
    if not is_drawn(location):
        if like is not None:
            raise CheckpointError(
                f"{location}: is read with its own weights, and {like} was given to draw others like it",
                f"name {_PREFIX}SEED as the checkpoint, or leave <like> away",
            )
        return None
    text = location.removeprefix(_PREFIX)
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > _LARGEST:
        raise CheckpointError(
            f"{location}: expected {_PREFIX}SEED with a whole number from 0 to 2^63-1, found {text!r}"
        )
    if like is None:
        raise CheckpointError(
            f"{location}: does not say whose architecture, tokenizer, robot and statistics the drawn weights take",
            "name that checkpoint with <like>",
        )
    return int(text)


def likes_of(locations: Sequence[str], like: str | None) -> list[str | None]:
    """For each of several checkpoints, the one that its weights are drawn like.

    Args:
        locations: of the checkpoints.
        like: what was said of all of them, for those that are drawn. Where none is, each gets it, and opening it says so.
    """
    drawn = [is_drawn(location) for location in locations]
    return [like if here or not any(drawn) else None for here in drawn]


class DrawnWeights:
    """`Weights` with the names, shapes and dtypes of others, and values that follow from a seed as in `init_params`."""

    def __init__(self, like: Weights, seed: int):
        self._like, self._seed = like, seed

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Flat name -> shape."""
        return self._like.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Flat name -> the dtype in which the other weights are stored."""
        return self._like.dtypes

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """One parameter in `dtype`, or in that of the other weights."""
        return draw_parameter(name, self.shapes[name], self._seed).astype(dtype_of(dtype or self.dtypes[name]))

    def pieces(self, name: str) -> list[Box]:
        """The whole parameter: nothing less can be drawn."""
        return [tuple(slice(0, size) for size in self.shapes[name])]

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """The part `box` of a parameter."""
        return self.read(name)[box]

    @property
    def parts_cost_the_whole(self) -> bool:
        """True: all of a parameter is drawn for any part of it."""
        return True
