"""The transformer block that both experts are made of, and its sites.

B batch, T query tokens, S key tokens, D width, F mlp width, N heads, K kv heads, G = N/K heads a kv head, H head size,
L layers, M fused projections, R adapter rank. Parameters are one layer's, by the names of `expert_layers`.

A block calls `site` with every value that can be captured and goes on with what that returns. Which are kept, cameras, the flow
and the other expert, whose keys and values it may be handed, are no concern of it.
Source: Gemma Team 2024, with the two-expert attention of Black et al. 2024, "pi0", and the adaptive norm of Pi0.5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlascope_server.model.config import GemmaConfig, Lora
from vlascope_server.model.parameters import Params
from vlascope_server.model.sites import Site, fence

_EPSILON = 1e-6
_MAX_WAVELENGTH = 10_000
_MASKED = -2.3819763e38
"""Logit of a masked key. Finite, as in the reference: a row that sees nothing attends evenly instead of becoming NaN.
So large that a float32 logit added to it is lost in rounding."""

PROJECTED = frozenset({"pre_attn_norm_scales", "k", "v"})
"""Sites of `project`; all others of a block are those of `finish`."""


class KeysValues(NamedTuple):
    """Keys (after the rotary embedding) and values of one layer; stacked on a leading L where they are a cache.

    Keys lie transposed, as the product with the queries wants them: a cache is read once a denoise step.
    """

    k: Float[Array, "*L B K H S"]
    v: Float[Array, "*L B K S H"]

    def append(self, new: KeysValues) -> KeysValues:
        """The keys and values of more tokens behind these."""
        return KeysValues(jnp.concatenate([self.k, new.k], axis=-1), jnp.concatenate([self.v, new.v], axis=-2))


class Rotation(NamedTuple):
    """Sine and cosine of the rotary embedding's angles; they depend on positions alone, so all layers share them."""

    sin: Float[Array, "B T 1 H/2"]
    cos: Float[Array, "B T 1 H/2"]


class Modulation(NamedTuple):
    """What the denoise time does to an adaptive norm: `norm(x) * (1 + scale) + shift`, and a gate on the branch after it."""

    scale: Float[Array, "*lead D"]
    shift: Float[Array, "*lead D"]
    gate: Float[Array, "*lead D"]


class BlockModulation(NamedTuple):
    """The two adaptive norms of a block."""

    attn: Modulation
    mlp: Modulation


class Projected(NamedTuple):
    """A block's input after its first norm and the projections."""

    q: Float[Array, "B T N H"]
    kv: KeysValues
    gate: Float[Array, "B D"] | None


def project(
    layer: Params,
    config: GemmaConfig,
    x: Float[Array, "B T D"],
    rotation: Rotation,
    site: Site,
    modulation: BlockModulation | None = None,
) -> Projected:
    """First half of a block's attention: norm, queries, keys and values, rotary embedding."""
    tap = functools.partial(site, "pre_attn_norm_scales")
    h, gate = rms_norm(layer, "pre_attention_norm", x, modulation and modulation.attn, tap)
    q, k, v = _qkv(layer, config, h)
    k, v = site("k", k), site("v", v)
    # the head size scales after the rotation, in the activations' dtype
    q = rotate(q, rotation) * config.head_dim**-0.5
    kv = KeysValues(rotate(k, rotation).transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3))
    return Projected(q, kv, gate)


def finish(
    layer: Params,
    config: GemmaConfig,
    x: Float[Array, "B T D"],
    projected: Projected,
    kv: KeysValues,
    bias: Float[Array, "B T S"],
    site: Site,
    modulation: BlockModulation | None = None,
) -> Float[Array, "B T D"]:
    """The rest of the block: attention over `kv`, the residuals, the gated MLP."""
    attended = attend(projected.q, kv, bias, site)
    branch = site("attn_output", _gated(_attn_out(layer, config, attended), projected.gate))
    x = site("post_attn_embedding", x + branch)
    tap = functools.partial(site, "pre_mlp_norm_scales")
    h, gate = rms_norm(layer, "pre_ffw_norm", x, modulation and modulation.mlp, tap)
    activation = site("mlp_activation", _mlp_activation(layer, h))
    branch = site("mlp_output", _gated(_mlp_out(layer, activation), gate))
    return site("hidden_states", x + branch)


def rms_norm(
    params: Params,
    name: str,
    x: Float[Array, "B T D"],
    modulation: Modulation | None = None,
    tap: Callable[[Float[Array, "B T"]], Float[Array, "B T"]] = fence,
) -> tuple[Float[Array, "B T D"], Float[Array, "*B D"] | None]:
    """Root-mean-square norm, plain or adaptive.

    Args:
        params: that hold its scale, or in the adaptive one nothing of it.
        name: of the norm in `params`.
        x: float32 or bfloat16.
        modulation: makes it adaptive.
        tap: takes the factor rsqrt(mean(x^2) + 1e-6) in float32, and gives the one that is used.

    Returns:
        The normed x in its own dtype, and the gate on the branch that follows (None for a plain norm).
    """
    x32 = x.astype(jnp.float32)
    factor = tap(1 / jnp.sqrt(jnp.mean(jnp.square(x32), axis=-1) + _EPSILON))
    normed = x32 * factor[..., None]
    if modulation is None:
        scaled = normed * (1 + params[f"{name}/scale"].astype(jnp.float32))
        return scaled.astype(x.dtype), None
    scaled = normed * (1 + modulation.scale[..., None, :]) + modulation.shift[..., None, :]
    return scaled.astype(x.dtype), modulation.gate


def modulate(params: Params, name: str, cond: Float[Array, "Q b D"]) -> Modulation:
    """The adaptive norm's parameters from the embedded denoise time: float32, [Q b D], or [Q L b D] of stacked layers."""
    kernel, bias = params[f"{name}/Dense_0/kernel"], params[f"{name}/Dense_0/bias"].astype(jnp.float32)
    cond = cond.astype(kernel.dtype)
    if kernel.ndim == 3:
        # one product a layer: a single one over all layers would transpose the whole stack of kernels first
        rows = jnp.broadcast_to(cond.reshape(1, -1, cond.shape[-1]), (len(kernel), cond[..., 0].size, cond.shape[-1]))
        out = jnp.einsum("LqD,LDE->LqE", rows, kernel, preferred_element_type=jnp.float32) + bias[:, None]
        out = out.reshape(-1, *cond.shape[:2], out.shape[-1]).swapaxes(0, 1)
    else:
        out = jnp.einsum("QbD,DE->QbE", cond, kernel, preferred_element_type=jnp.float32) + bias[None, None]
    return Modulation(*jnp.split(out, 3, axis=-1))


def rotary(positions: Int[Array, "B T"], head_dim: int) -> Rotation:
    """The rotary embedding's angles in float32, base 10000 (Su et al. 2021)."""
    half = head_dim // 2
    timescale = _MAX_WAVELENGTH ** (2.0 / head_dim * jnp.arange(half, dtype=jnp.float32))
    radians = (positions[..., None].astype(jnp.float32) / timescale)[:, :, None, :]
    return Rotation(jnp.sin(radians), jnp.cos(radians))


def rotate(x: Float[Array, "B T M H"], rotation: Rotation) -> Float[Array, "B T M H"]:
    """Applies the rotary embedding in float32: the head's two halves are the coordinates of its pairs."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    sin, cos = rotation
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def attention_bias(mask: Bool[Array, "B T S"]) -> Float[Array, "B T S"]:
    """What is added to the float32 logits: nothing where a query sees a key, and where it does not, enough to drown them."""
    return jnp.where(mask, jnp.float32(0), jnp.float32(_MASKED))


def attend(
    q: Float[Array, "B T N H"], kv: KeysValues, bias: Float[Array, "B T S"], site: Site
) -> Float[Array, "B T N H"]:
    """Softmax attention with float32 logits; query head n uses kv head n // G."""
    B, T, N, H = q.shape
    K = kv.k.shape[1]
    # all of a kv head's queries in one matrix product, instead of one product a head
    queries = q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, N // K * T, H)
    products = jnp.einsum("BKMH,BKHS->BKMS", queries, kv.k, preferred_element_type=jnp.float32)
    logits = products.reshape(B, N, T, -1) + bias[:, None]
    # softmax is blind to what is subtracted: no gradient is owed to the maximum, and its scatter is dear
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if "attention" in site.names:
        seen = site("attention", weights / total)
        if "attention" in site.edits:
            weights, total = seen, jnp.ones_like(total)
    weights = weights.astype(q.dtype).reshape(B, K, N // K * T, -1)
    attended = jnp.einsum("BKMS,BKSH->BKMH", weights, kv.v, preferred_element_type=jnp.float32)
    # dividing the sum instead of every weight touches H numbers a row instead of S
    attended = (attended / total.reshape(B, K, -1, 1)).astype(q.dtype).reshape(B, N, T, H)
    return attended.transpose(0, 2, 1, 3)


def _qkv(
    layer: Params, config: GemmaConfig, h: Float[Array, "B T D"]
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    N, K, H = config.num_heads, config.num_kv_heads, config.head_dim
    flat = h @ layer["attn/qkv"].astype(h.dtype)
    q, k, v = (part.reshape(*h.shape[:2], -1, H) for part in jnp.split(flat, [N * H, (N + K) * H], axis=-1))
    if lora := config.attn_lora:
        q = q + _lora_heads(layer, "attn/q_einsum", "BTD,NDR->BTNR", "BTNR,NRH->BTNH", lora, h)
        dk, dv = _lora_heads(layer, "attn/kv_einsum", "BTD,CKDR->CBTKR", "CBTKR,CKRH->CBTKH", lora, h)
        k, v = k + dk, v + dv
    return q, k, v


def _attn_out(layer: Params, config: GemmaConfig, attended: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
    w = layer["attn/attn_vec_einsum/w"]
    N, H, D = w.shape
    out = attended.reshape(*attended.shape[:2], N * H) @ w.reshape(N * H, D).astype(attended.dtype)
    if lora := config.attn_lora:
        # Each factor is summed over the heads by itself, not head by head: the reference's adapters were trained so.
        a = layer["attn/attn_vec_einsum/lora_a"].astype(attended.dtype)
        b = layer["attn/attn_vec_einsum/lora_b"].astype(attended.dtype)
        out = out + jnp.einsum("BTNH,NHR->BTR", attended, a) @ jnp.sum(b, axis=0) * lora.scale
    return out


def _lora_heads(layer: Params, name: str, down: str, up: str, lora: Lora, h: Float[Array, "B T D"]) -> jax.Array:
    a, b = (layer[f"{name}/{part}"].astype(h.dtype) for part in ("lora_a", "lora_b"))
    return jnp.einsum(up, jnp.einsum(down, h, a), b) * lora.scale


def _mlp_activation(layer: Params, h: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    # one batched product over gate and up: slicing the two apart would copy their weights
    both = jnp.broadcast_to(h[None], (2, *h.shape))
    weights = layer["mlp/gating_einsum"].astype(h.dtype)
    gate_up = jnp.einsum("GBTD,GDF->GBTF", both, weights)
    if "mlp/gating_einsum_lora_a" in layer:
        a, b = (layer[f"mlp/gating_einsum_{part}"].astype(h.dtype) for part in ("lora_a", "lora_b"))
        gate_up = gate_up + jnp.einsum("GBTR,GRF->GBTF", jnp.einsum("GBTD,GDR->GBTR", both, a), b)
    return jax.nn.gelu(gate_up[0], approximate=True) * gate_up[1]


def _mlp_out(layer: Params, activation: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
    """The down projection. Unlike the attention's, the adapters of the MLP are not scaled by alpha / rank."""
    out = activation @ layer["mlp/linear"].astype(activation.dtype)
    if "mlp/linear_lora_a" in layer:
        a, b = (layer[f"mlp/linear_{part}"].astype(activation.dtype) for part in ("lora_a", "lora_b"))
        out = out + activation @ a @ b
    return out


def _gated(y: Float[Array, "B T D"], gate: Float[Array, "*B D"] | None) -> Float[Array, "B T D"]:
    """What a branch adds to the stream."""
    return y if gate is None else y * gate[..., None, :].astype(y.dtype)
