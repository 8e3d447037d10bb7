"""T5's encoder by way of transformers: texts to the mean of its last hidden states. Needs the extra `torch`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlascope_analysis.errors import AnalysisError

MAX_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class T5:
    """The encoder; call it with texts."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, name: str) -> T5:
        """Reads a T5 from a folder or from the Hugging Face hub.

        Raises:
            AnalysisError: torch or transformers is missing, or there is no such T5 here and no network to fetch it.
        """
        try:
            import transformers  # pyright: ignore[reportMissingImports]

            encoder, tokenizer = transformers.T5EncoderModel, transformers.AutoTokenizer
        except ImportError as error:
            raise AnalysisError(
                f"encoder {name}: needs torch and transformers, which are not installed ({error.name} is missing): "
                "install vlascope-analysis[torch], or use --encoder minilm"
            ) from error
        try:
            return cls(encoder.from_pretrained(name).eval(), tokenizer.from_pretrained(name))
        except ImportError as error:
            raise AnalysisError(f"encoder {name}: {str(error).strip().splitlines()[0]}") from error
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise AnalysisError(
                f"encoder {name}: no T5 of that name is here or could be fetched ({reason}): give the folder of one, or use "
                "--encoder minilm"
            ) from error

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings: float32 [texts, width of the T5]."""
        import torch  # pyright: ignore[reportMissingImports]

        rows = []
        with torch.no_grad():
            for text in texts:  # one by one: no padding, so the mean is over real tokens
                tokens = self.tokenizer(text, return_tensors="pt", max_length=MAX_TOKENS, truncation=True)
                states = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
                rows.append(states.last_hidden_state[0].mean(dim=0).float().numpy())
        return np.stack(rows)
