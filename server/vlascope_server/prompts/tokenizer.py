"""Turns an instruction into the token numbers that a policy reads, with any SentencePiece model.

The texts are exactly those that pi0 and pi0.5 were trained to read: their rules are the reference's (openpi,
models/tokenizer.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Float, Int
from vlascope_base import VlascopeError

PADDING = 0
"""The number of a padding token, whatever the tokenizer calls it; the mask tells it from a real one."""

_BIN_EDGES = np.linspace(-1.0, 1.0, 257)[:-1]


class TokenizerError(VlascopeError):
    """A tokenizer that cannot be used; the message is one line that names the file."""


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt of fixed length.

    Attributes:
        tokens: int32, 0 where padded.
        mask: true for real tokens.
        truncated: tokens that did not fit and are lost; report them, since the policy did not see the whole prompt.
    """

    tokens: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    truncated: int


class Tokenizer:
    """A SentencePiece model file, and the two prompt formats.

    Args:
        path: the file.
        state_dim: numbers of the state in a prompt, zeros behind those that `encode` is given; None writes these alone. LeRobot
            padded so, to 32, up to its release 0.4 (huggingface/lerobot#2863).

    Raises:
        TokenizerError: the file is missing, no SentencePiece model, or without a begin-of-sequence token.
    """

    def __init__(self, path: str | Path, state_dim: int | None = None):
        self.path, self._state_dim = Path(path), state_dim
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{path}: expected a SentencePiece model file, found none ({error.strerror})"
            ) from None
        try:
            self._model = sentencepiece.SentencePieceProcessor()
            self._model.LoadFromSerializedProto(content)
        except RuntimeError:
            raise TokenizerError(f"{path}: {len(content)} bytes that are no SentencePiece model") from None
        if self._model.bos_id() < 0:
            raise TokenizerError(f"{path}: has no begin-of-sequence token, and every prompt begins with one")

    @property
    def vocabulary(self) -> int:
        """Token numbers are smaller than this."""
        return self._model.vocab_size()

    def check_fits(self, rows: int) -> None:
        """Compares with a model's text embedding; a larger one is common (reserved tokens), a smaller one is a mistake.

        Raises:
            TokenizerError: token numbers would run past the embedding's `rows`.
        """
        if self.vocabulary > rows:
            raise TokenizerError(f"{self.path}: {self.vocabulary} tokens, and the model's embedding has {rows} rows")

    def encode(self, instruction: str, length: int, state: Float[np.ndarray, " s"] | None = None) -> TokenizedPrompt:
        """The prompt as `length` tokens.

        Args:
            instruction: as the user wrote it; it is cleaned here.
            length: text tokens of the model (`Pi0Config.max_token_len`).
            state: normalised and not padded, for a pi0.5 that reads its state as text. Without one it is the format of
                pi0: the instruction, and a line break as a token of its own.

        Raises:
            ValueError: the state holds NaN.
        """
        if state is None:
            tokens = self._ids(clean(instruction), bos=True) + self._ids("\n", bos=False)
        else:
            padding = max(0, (self._state_dim or 0) - len(state))
            tokens = self._ids(state_prompt(instruction, np.pad(state, (0, padding))), bos=True)
        kept = tokens[:length]
        out = np.full(length, PADDING, np.int32)
        out[: len(kept)] = kept
        return TokenizedPrompt(out, np.arange(length) < len(kept), len(tokens) - len(kept))

    def decode(self, prompt: TokenizedPrompt) -> str:
        """The text of the real tokens, for people to read."""
        return self._model.decode(prompt.tokens[prompt.mask].tolist())

    def _ids(self, text: str, *, bos: bool) -> list[int]:
        return self._model.encode(text, add_bos=bos)


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
