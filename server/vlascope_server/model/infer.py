"""Reads a policy's architecture off the shapes of its parameters.

What shapes cannot tell (action horizon, token length, cameras, LoRA alpha, dtype) the caller says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vlascope_base import VlascopeError

from vlascope_server.model.config import CAMERAS, GemmaConfig, Lora, Pi0Config, VisionConfig
from vlascope_server.model.parameters import parameter_shapes

_IMG = "PaliGemma/img"
_LLM = "PaliGemma/llm"


class ParameterError(VlascopeError):
    """Parameters that are no Pi0 or Pi0.5: a name missing, unknown, or of an impossible shape; the message names it."""


def infer_config(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    action_horizon: int,
    max_token_len: int,
    cameras: tuple[str, ...] = CAMERAS,
    lora_alpha: float | None = None,
    dtype: str = "float32",
) -> Pi0Config:
    """The configuration whose parameters have exactly these names and shapes.

    Args:
        shapes: flat name -> shape, as `parameter_shapes` gives them.
        lora_alpha: of every adapter; None takes the rank of each, as all of the reference's configurations do.

    Raises:
        ParameterError: names or shapes fit no Pi0; the first that does not fit is named, with what was expected.
    """
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    pi05 = "time_mlp_in/kernel" in shapes
    vocabulary, _ = _shape(shapes, f"{_LLM}/embedder/input_embedding", 2)
    config = Pi0Config(
        vision=_vision(shapes),
        vlm=_gemma(shapes, "", lora_alpha),
        action=_gemma(shapes, "_1", lora_alpha),
        pi05=pi05,
        vocabulary=vocabulary,
        action_dim=_shape(shapes, "action_in_proj/kernel", 2)[0],
        action_horizon=action_horizon,
        max_token_len=max_token_len,
        cameras=cameras,
        dtype=dtype,  # pyright: ignore[reportArgumentType] the configuration checks it
    )
    check_shapes(shapes, config)
    return config


def check_shapes(shapes: Mapping[str, tuple[int, ...]], config: Pi0Config) -> None:
    """Raises `ParameterError` naming the first parameter that is missing, unknown or not of `config`'s shape."""
    expected = parameter_shapes(config)
    for name, shape in expected.items():
        if name not in shapes:
            raise ParameterError(f"parameter {name}: missing; expected shape {shape}")
        if tuple(shapes[name]) != shape:
            raise ParameterError(f"parameter {name}: expected shape {shape}, found {tuple(shapes[name])}")
    unknown = sorted(set(shapes) - set(expected))
    if unknown:
        raise ParameterError(f"parameter {unknown[0]}: unknown to this architecture ({len(unknown)} such in all)")


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, ndim: int) -> tuple[int, ...]:
    if name not in shapes:
        raise ParameterError(f"parameter {name}: missing; every Pi0 and Pi0.5 has it with {ndim} axes")
    if len(shapes[name]) != ndim:
        raise ParameterError(f"parameter {name}: expected {ndim} axes, found shape {shapes[name]}")
    return shapes[name]


def _vision(shapes: Mapping[str, tuple[int, ...]]) -> VisionConfig:
    patch, _, _, width = _shape(shapes, f"{_IMG}/embedding/kernel", 4)
    _, tokens, _ = _shape(shapes, f"{_IMG}/pos_embedding", 3)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ParameterError(f"parameter {_IMG}/pos_embedding: {tokens} image tokens are no square grid of patches")
    block = f"{_IMG}/Transformer/encoderblock"
    depth, _, heads, _ = _shape(shapes, f"{block}/MultiHeadDotProductAttention_0/query/kernel", 4)
    mlp_dim = _shape(shapes, f"{block}/MlpBlock_0/Dense_0/kernel", 3)[-1]
    return VisionConfig(width, depth, mlp_dim, heads, patch, side * patch)


def _gemma(shapes: Mapping[str, tuple[int, ...]], suffix: str, lora_alpha: float | None) -> GemmaConfig:
    attn, mlp = f"{_LLM}/layers/attn", f"{_LLM}/layers/mlp{suffix}"
    depth, heads, width, head_dim = _shape(shapes, f"{attn}/q_einsum{suffix}/w", 4)
    kv_heads = _shape(shapes, f"{attn}/kv_einsum{suffix}/w", 5)[2]
    mlp_dim = _shape(shapes, f"{mlp}/linear", 3)[1]

    def lora(name: str) -> Lora | None:
        if name not in shapes:
            return None
        rank = shapes[name][-1]
        return Lora(rank, float(rank) if lora_alpha is None else float(lora_alpha))

    attn_lora, ffn_lora = lora(f"{attn}/q_einsum{suffix}/lora_a"), lora(f"{mlp}/linear_lora_a")
    return GemmaConfig(width, depth, mlp_dim, heads, kv_heads, head_dim, attn_lora, ffn_lora)
