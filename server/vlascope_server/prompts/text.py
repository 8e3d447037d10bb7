"""The exact texts that pi0 and pi0.5 were trained to read.

Knows nothing of tokens. Rules are the reference's (openpi, models/tokenizer.py).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_BIN_EDGES = np.linspace(-1.0, 1.0, 257)[:-1]


def clean(instruction: str) -> str:
    """Without blanks around it; underscores and line breaks become spaces, one for one."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def state_bins(state: Float[np.ndarray, " s"]) -> Int[np.ndarray, " s"]:
    """Which of 256 equal parts of [-1, 1] each number lies in; -1 below, 255 at 1 and above.

    Args:
        state: normalised, before it is padded to the model's width.

    Raises:
        ValueError: a number is NaN.
    """
    if np.isnan(state).any():
        raise ValueError(f"state: number {int(np.argmax(np.isnan(state)))} is NaN and has no bin")
    return np.digitize(state, _BIN_EDGES) - 1


def state_prompt(instruction: str, state: Float[np.ndarray, " s"]) -> str:
    """The text of a pi0.5 that reads its state: the instruction and one number a state dimension."""
    numbers = " ".join(map(str, state_bins(state)))
    return f"Task: {clean(instruction)}, State: {numbers};\nAction: "
