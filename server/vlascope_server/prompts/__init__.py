"""Prompts: an instruction, and for some policies a state, as the tokens a policy reads."""

from vlascope_server.prompts.paligemma import paligemma_path, paligemma_tokenizer
from vlascope_server.prompts.tokenizer import (
    TokenizedPrompt,
    Tokenizer,
    TokenizerError,
    clean,
    state_bins,
    state_prompt,
)

__all__ = [
    "TokenizedPrompt",
    "Tokenizer",
    "TokenizerError",
    "clean",
    "paligemma_path",
    "paligemma_tokenizer",
    "state_bins",
    "state_prompt",
]
