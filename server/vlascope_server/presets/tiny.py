"""Policies small enough that everything downstream of the model runs in seconds on a CPU.

They act as LIBERO's arm. Five come trained; docs/tiny.md says how, and what they can do.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vlascope_server.model import GemmaConfig, Pi0Config, VisionConfig
from vlascope_server.presets.preset import Preset
from vlascope_server.robots import Libero, NormStats
from vlascope_server.robots.norm_stats import unit_stats

TOKENIZER_PATH = Path(__file__).with_name("tiny_tokenizer.model")
"""Their SentencePiece model; `server/scripts/train_tiny_tokenizer.py` makes it."""

TINY = Pi0Config(
    # 112 / 14 = 8 patches a side, 64 tokens a camera: chunks of 8 or 16 tokens divide this and the text's 48
    vision=VisionConfig(width=128, depth=2, mlp_dim=384, num_heads=4, patch_size=14, image_size=112),
    # unlike widths, so that mixing the experts up cannot go unnoticed
    vlm=GemmaConfig(width=96, depth=8, mlp_dim=192, num_heads=3, num_kv_heads=1, head_dim=32),
    action=GemmaConfig(width=64, depth=8, mlp_dim=256, num_heads=3, num_kv_heads=1, head_dim=32),
    vocabulary=1024,
    # the published width: padding to it is exercised, and costs nothing
    action_dim=32,
    action_horizon=10,
    max_token_len=48,
    cameras=tuple(Libero().spec.cameras),
)
"""A pi0."""


def _trained(name: str) -> Preset:
    """TINY with the weights in `checkpoints/<name>`."""
    return Preset(
        name,
        pi05=False,
        location=str(Path(__file__).with_name("checkpoints") / name),
        robot="libero",
        action_horizon=TINY.action_horizon,
        max_token_len=TINY.max_token_len,
        cameras=TINY.cameras,
        asset_id="libero",
        normalisation="zscore",
        delta_actions=False,
    )


BUNDLED = _trained("tiny")
"""TINY, trained: `make tiny`."""

SIBLINGS = (
    # never needed to listen: ten scenes with one instruction each; told another object, it lifts it first in 4 of 30 episodes
    _trained("tiny-unvaried"),
    # 300 steps on from `tiny`, on disjoint halves of fresh demonstrations
    _trained("tiny-half-0"),
    _trained("tiny-half-1"),
    # adapters alone, 300 steps on from `tiny`
    _trained("tiny-lora"),
)
"""TINY, trained otherwise, to compare and to mix with `tiny`: `make tiny-siblings`."""

TINY_PI05 = dataclasses.replace(TINY, pi05=True, max_token_len=64)
"""A pi0.5. Its longer text has room for the state: LIBERO's longest instruction and eight numbers."""


def unit_norm_stats(state_dim: int, action_dim: int) -> dict[str, NormStats]:
    """Statistics that change nothing but by the 1e-6 margin, for weights that were never trained."""
    return {"state": unit_stats(state_dim), "actions": unit_stats(action_dim)}
