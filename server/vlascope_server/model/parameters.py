"""Parameters as one flat dictionary from the reference checkpoint's names to arrays: `PaliGemma/llm/layers/mlp/linear`.

The names carry the whole structure, so that loading, comparing and mixing checkpoints needs no second naming scheme.
Per-layer parameters are stacked on a leading axis L. Files are read elsewhere (`checkpoints`).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlascope_server.model.config import GemmaConfig, Pi0Config, VisionConfig

Params = Mapping[str, jax.Array]
"""Flat name -> array; a pytree."""
Shapes = dict[str, tuple[int, ...]]
_ATTENTION = "PaliGemma/llm/layers/attn"
Leaf = TypeVar("Leaf")


def parameter_shapes(config: Pi0Config) -> Shapes:
    """Name and shape of every parameter of `config`, without allocating any."""
    a, width = config.action_dim, config.action.width
    shapes = {f"PaliGemma/img/{k}": s for k, s in _vision_shapes(config.vision, config.vlm.width).items()}
    shapes["PaliGemma/llm/embedder/input_embedding"] = (config.vocabulary, config.vlm.width)
    for suffix, gemma, adaptive in (("", config.vlm, False), ("_1", config.action, config.pi05)):
        shapes |= {f"PaliGemma/llm/{k}": s for k, s in _gemma_shapes(gemma, suffix, adaptive)}
    shapes |= _linear("action_in_proj", a, width) | _linear("action_out_proj", width, a)
    if config.pi05:
        shapes |= _linear("time_mlp_in", width, width) | _linear("time_mlp_out", width, width)
    else:
        shapes |= _linear("state_proj", a, width)
        shapes |= _linear("action_time_mlp_in", 2 * width, width) | _linear("action_time_mlp_out", width, width)
    return dict(sorted(shapes.items()))


def init_params(
    config: Pi0Config, seed: int = 0, dtype: str = "float32", *, names: Collection[str] | None = None
) -> dict[str, jax.Array]:
    """Random parameters with unit-gain products, the same for a name, a shape and a seed wherever they are drawn.

    Small enough to stay finite through any depth, large enough that attention is not uniform: for tests, benchmarks and
    the start of training from scratch. `names` are those that are wanted; all unless given.
    """
    shapes = parameter_shapes(config)
    wanted = [name for name in shapes if names is None or name in names]
    return {name: jnp.asarray(draw_parameter(name, shapes[name], seed), dtype) for name in wanted}


def draw_parameter(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One parameter of `init_params`, in float32."""
    offset, scale = _init_law(name, shape)
    if not scale:
        return np.full(shape, offset, np.float32)
    # numpy's generator: JAX's would compile a program for every shape, a minute for a model that draws in a second
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    noise *= np.float32(scale)
    return noise + np.float32(offset) if offset else noise


def lora_frozen(name: str) -> bool:
    """Whether the reference's LoRA fine-tuning leaves this parameter alone.

    It trains the adapters of the experts, the image encoder and the action projections; the rest of the language model
    (embedder and norms too) is frozen.
    """
    return bool(re.match(r".*llm.*", name)) and not re.match(r".*lora.*", name)


def under(params: Mapping[str, Leaf], prefix: str) -> dict[str, Leaf]:
    """The entries below `prefix/`, by their remaining names."""
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in params.items() if name.startswith(prefix + "/")}


def fuse_for_inference(params: Params) -> dict[str, jax.Array]:
    """The parameters with each expert's query, key and value weights side by side: `attn/qkv` [L, D, (N + 2K) H].

    One product then reads its input once. Every model function does this to parameters as a checkpoint holds them; who
    calls one often does it once, beforehand, and saves moving these weights each time. Idempotent.
    """
    fused = dict(params)
    for suffix in ("", "_1"):
        q, kv = (f"{_ATTENTION}/{name}{suffix}/w" for name in ("q_einsum", "kv_einsum"))
        if q in fused:
            fused[f"{_ATTENTION}/qkv{suffix}"] = _side_by_side(fused.pop(q), fused.pop(kv))
    return fused


def expert_layers(params: Mapping[str, Leaf], expert: int) -> dict[str, Leaf]:
    """The stacked per-layer parameters of one expert (0 the vlm, 1 the action expert), by the names of expert 0.

    The reference marks the second expert's modules with `_1`: `attn/q_einsum_1/w` comes back as `attn/q_einsum/w`.
    """
    layers = {}
    for name, value in under(params, "PaliGemma/llm/layers").items():
        parts = [part.removesuffix("_1") for part in name.split("/")]
        if (parts != name.split("/")) == bool(expert):
            layers["/".join(parts)] = value
    return layers


def _side_by_side(q: Float[Array, "L N D H"], kv: Float[Array, "L 2 K D H"]) -> Float[Array, "L D M"]:
    L, _, D, _ = q.shape
    return jnp.concatenate([w.swapaxes(1, 2).reshape(L, D, -1) for w in (q, kv[:, 0], kv[:, 1])], axis=-1)


def _linear(name: str, fan_in: int, fan_out: int) -> Shapes:
    return {f"{name}/kernel": (fan_in, fan_out), f"{name}/bias": (fan_out,)}


def _vision_shapes(v: VisionConfig, out: int) -> Shapes:
    block, head_dim = "Transformer/encoderblock", v.width // v.num_heads
    attn = f"{block}/MultiHeadDotProductAttention_0"
    shapes: Shapes = {
        "embedding/kernel": (v.patch_size, v.patch_size, 3, v.width),
        "embedding/bias": (v.width,),
        "pos_embedding": (1, v.tokens, v.width),
        "head/kernel": (v.width, out),
        "head/bias": (out,),
        f"{attn}/out/kernel": (v.depth, v.num_heads, head_dim, v.width),
        f"{attn}/out/bias": (v.depth, v.width),
        f"{block}/MlpBlock_0/Dense_0/kernel": (v.depth, v.width, v.mlp_dim),
        f"{block}/MlpBlock_0/Dense_0/bias": (v.depth, v.mlp_dim),
        f"{block}/MlpBlock_0/Dense_1/kernel": (v.depth, v.mlp_dim, v.width),
        f"{block}/MlpBlock_0/Dense_1/bias": (v.depth, v.width),
    }
    for role in ("query", "key", "value"):
        shapes[f"{attn}/{role}/kernel"] = (v.depth, v.width, v.num_heads, head_dim)
        shapes[f"{attn}/{role}/bias"] = (v.depth, v.num_heads, head_dim)
    for part in ("scale", "bias"):
        shapes[f"Transformer/encoder_norm/{part}"] = (v.width,)
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            shapes[f"{block}/{norm}/{part}"] = (v.depth, v.width)
    return shapes


def _gemma_shapes(g: GemmaConfig, suffix: str, adaptive: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """`suffix` marks the expert's modules, `adaptive` replaces norm scales by a projection of the denoise time."""
    L, D, F, N, K, H = g.depth, g.width, g.mlp_dim, g.num_heads, g.num_kv_heads, g.head_dim
    attn, mlp = "layers/attn", f"layers/mlp{suffix}"
    yield f"{attn}/q_einsum{suffix}/w", (L, N, D, H)
    yield f"{attn}/kv_einsum{suffix}/w", (L, 2, K, D, H)
    yield f"{attn}/attn_vec_einsum{suffix}/w", (L, N, H, D)
    yield f"{mlp}/gating_einsum", (L, 2, D, F)
    yield f"{mlp}/linear", (L, F, D)
    for norm, stack in (
        (f"layers/pre_attention_norm{suffix}", (L,)),
        (f"layers/pre_ffw_norm{suffix}", (L,)),
        (f"final_norm{suffix}", ()),
    ):
        if adaptive:
            yield f"{norm}/Dense_0/kernel", (*stack, D, 3 * D)
            yield f"{norm}/Dense_0/bias", (*stack, 3 * D)
        else:
            yield f"{norm}/scale", (*stack, D)
    if g.attn_lora:
        r = g.attn_lora.rank
        for name, lead, fan_in, fan_out in (
            ("q_einsum", (L, N), D, H), ("kv_einsum", (L, 2, K), D, H), ("attn_vec_einsum", (L, N), H, D),
        ):  # fmt: skip
            yield f"{attn}/{name}{suffix}/lora_a", (*lead, fan_in, r)
            yield f"{attn}/{name}{suffix}/lora_b", (*lead, r, fan_out)
    if g.ffn_lora:
        r = g.ffn_lora.rank
        for name, lead, fan_in, fan_out in (("gating_einsum", (L, 2), D, F), ("linear", (L,), F, D)):
            yield f"{mlp}/{name}_lora_a", (*lead, fan_in, r)
            yield f"{mlp}/{name}_lora_b", (*lead, r, fan_out)


def _init_law(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a parameter's first values."""
    parts = name.split("/")
    last = parts[-1]
    if last == "bias" or (last == "scale" and "img" not in parts) or last.endswith("lora_b"):
        return 0.0, 0.0
    if last == "scale":
        return 1.0, 0.0
    if last == "pos_embedding":
        return 0.0, 1 / math.sqrt(shape[-1])
    if "Dense_0" in parts and "llm" in parts:
        return 0.0, 0.0  # adaptive norms start as plain ones
    if last == "input_embedding":
        return 0.0, 1 / math.sqrt(shape[-1])
    if parts[-2] == "embedding":
        fan_in = math.prod(shape[:-1])
    elif parts[-2] in ("query", "key", "value"):
        fan_in = shape[1]
    elif parts[-2] == "out" or parts[-2].startswith("attn_vec_einsum"):
        fan_in = shape[1] * shape[2]
    else:
        fan_in = shape[-2]
    return 0.0, 1 / math.sqrt(fan_in)


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Elements over all parameters."""
    return int(sum(np.prod(shape, dtype=np.int64) for shape in shapes.values()))
