"""Prompts: an instruction, and for some policies a state, as the tokens a policy reads. Knows nothing of robots."""

from vlascope_server.prompts.paligemma import paligemma_path, paligemma_tokenizer
from vlascope_server.prompts.text import clean, state_bins, state_prompt
from vlascope_server.prompts.tokenizer import TokenizedPrompt, Tokenizer, TokenizerError

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
