"""SigLIP: an image becomes a grid of tokens in the language model's width.

B images, h and w patches along the sides, P patch size, S = h*w tokens, D width, N heads, H head size, L blocks.
Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"; the vision transformer without a pooling head.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlascope_server.model.config import VisionConfig
from vlascope_server.model.parameters import Params, under

_EPSILON = 1e-6


def encode_images(
    params: Params, config: VisionConfig, images: Float[Array, "B height width 3"], dtype: str
) -> Float[Array, "B S D_llm"]:
    """Image tokens, not scaled by the language model's sqrt(width), in `dtype`.

    Args:
        params: the entries below `PaliGemma/img`.
        images: float32 in [-1, 1].
        dtype: of the activations; patch and position embedding are float32 in any case.
    """
    x = embed_patches(params, config, images).astype(dtype)
    x, _ = jax.lax.scan(lambda x, layer: (encoder_block(layer, x), None), x, under(params, "Transformer/encoderblock"))
    return project_tokens(params, normalise_tokens(params, x))


def embed_patches(
    params: Params, config: VisionConfig, images: Float[Array, "B height width 3"]
) -> Float[Array, "B S D"]:
    """Linear patch embedding plus the learnt position embedding, float32."""
    B, P = images.shape[0], config.patch_size
    side = config.image_size // P
    patches = images.reshape(B, side, P, side, P, 3).transpose(0, 1, 3, 2, 4, 5).reshape(B, side * side, P * P * 3)
    kernel = params["embedding/kernel"].astype(jnp.float32).reshape(P * P * 3, config.width)
    x = patches @ kernel + params["embedding/bias"].astype(jnp.float32)
    return x + params["pos_embedding"].astype(jnp.float32)


def encoder_block(layer: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """One pre-norm transformer block: bidirectional attention, then a two-layer MLP."""
    x = x + _attention(under(layer, "MultiHeadDotProductAttention_0"), _layer_norm(under(layer, "LayerNorm_0"), x))
    h = _linear(under(layer, "MlpBlock_0/Dense_0"), _layer_norm(under(layer, "LayerNorm_1"), x))
    return x + _linear(under(layer, "MlpBlock_0/Dense_1"), jax.nn.gelu(h, approximate=True))


def normalise_tokens(params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """The norm behind the last block."""
    return _layer_norm(under(params, "Transformer/encoder_norm"), x)


def project_tokens(params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D_llm"]:
    """The linear head into the language model's width."""
    return _linear(under(params, "head"), x)


def _attention(p: Mapping[str, jax.Array], x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    _, N, H = p["query/kernel"].shape

    def project(role: str) -> Float[Array, "B S N H"]:
        flat = _linear({"kernel": p[f"{role}/kernel"].reshape(-1, N * H), "bias": p[f"{role}/bias"].reshape(N * H)}, x)
        return flat.reshape(*x.shape[:2], N, H)

    q, k, v = project("query") * H**-0.5, project("key"), project("value")
    logits = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    attended = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(logits).astype(x.dtype), v)
    out = {"kernel": p["out/kernel"].reshape(N * H, -1), "bias": p["out/bias"]}
    return _linear(out, attended.reshape(*x.shape[:2], N * H))


def _linear(p: Mapping[str, jax.Array], x: Float[Array, "*lead D"]) -> Float[Array, "*lead E"]:
    return x @ p["kernel"].astype(x.dtype) + p["bias"].astype(x.dtype)


def _layer_norm(p: Mapping[str, jax.Array], x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _EPSILON)
    return (normed * p["scale"].astype(jnp.float32) + p["bias"].astype(jnp.float32)).astype(x.dtype)
