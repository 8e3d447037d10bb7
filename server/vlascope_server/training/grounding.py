"""Where in its pictures a policy sees what it is told: an objective beside the actions, from the language model's image tokens.

A small policy that learns from actions alone learns where arms go, long before it learns to look. What it is told to reach says
much more about an image than a direction of motion does: which of a thousand places.

Each image token scores the parts of its own patch, by the language model's own output head (final norm, tied embedding) at a
layer in the middle: a logit lens (nostalgebraist 2020), trained. Reserved for the parts are the vocabulary's last rows, where
PaliGemma has its location and segmentation tokens (Beyer et al. 2024). So the model gets no new parameter, and the layers above
hand on to the action expert what is found.

A second question, with rows of its own before those, is where the object is to be brought: once it is held, that is what the
instruction decides.

B batch, Q questions, C cameras.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from vlascope_latents import CaptureSpec

from vlascope_server.model import Params, Pi0Config
from vlascope_server.model.gemma import rms_norm
from vlascope_server.model.parameters import under

PARTS = 4
"""Of a patch's side: a place is told to a sixteenth of a patch."""
_PATH = "vlm/hidden_states"
_NEAR = 0.75
"""Of a patch's side: how far a place may be off to count as found."""


class Places(NamedTuple):
    """Sums over what is seen of each question's in a batch."""

    loss: Float[Array, " Q"]
    """Cross entropy, in nats; nothing learnt is the logarithm of the number of parts of a picture."""
    found: Float[Array, " Q"]
    """Those that the best part is at most three quarters of a patch away from."""


def capture_of(config: Pi0Config) -> CaptureSpec:
    """The residual stream that is read: image tokens behind the first half of the layers.

    The action expert's layers see the language model's of the same number: half of them are left to act on what is found.
    """
    layer = (config.vlm.depth - 1) // 2
    return CaptureSpec(experts=("vlm",), layers=(layer,), spans=("image",), dtype="float32")


def seen(targets: Float[Array, "*shape 2"]) -> Bool[Array, "*shape"]:
    """Whether a camera sees what is asked for."""
    return jnp.all((targets >= 0) & (targets <= 1), axis=-1)


def locate(
    params: Params, config: Pi0Config, latents: dict[str, jax.Array], targets: Float[Array, "B Q C 2"]
) -> Places:
    """How well the captured residual stream says where the told object is, and its place.

    Args:
        params: all parameters.
        config: of the model.
        latents: of `capture_of(config)`.
        targets: as `Batch.targets`.
    """
    side = config.vision.image_size // config.vision.patch_size
    B, Q, C = targets.shape[:3]
    hidden = latents[_PATH].reshape(B, C * side * side, -1)
    normed, _ = rms_norm(under(params, "PaliGemma/llm"), "final_norm", hidden)
    rows = params["PaliGemma/llm/embedder/input_embedding"][-Q * PARTS**2 :].astype(jnp.float32)
    # the first question's rows are the last
    rows = rows.reshape(Q, PARTS**2, -1)[::-1]
    scores = jnp.einsum("bnw,qpw->bqnp", normed, rows).reshape(B, Q, C, side, side, PARTS, PARTS)
    # row of patches, row of parts, column of patches, column of parts: parts of the picture as they lie in it
    cells = side * PARTS
    scores = scores.transpose(0, 1, 2, 3, 5, 4, 6).reshape(B, Q, C, cells * cells)
    cell = jnp.clip(jnp.floor(targets * cells), 0, cells - 1).astype(jnp.int32)
    right = (cell[..., 1] * cells + cell[..., 0])[..., None]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(scores), right, axis=-1)[..., 0]
    best = jnp.argmax(scores, axis=-1)
    guess = (jnp.stack([best % cells, best // cells], axis=-1).astype(jnp.float32) + 0.5) / cells
    near = jnp.max(jnp.abs(guess - targets), axis=-1) * side <= _NEAR
    there = seen(targets)
    return Places(
        jnp.sum(jnp.where(there, loss, 0.0), axis=(0, 2)), jnp.sum((there & near).astype(jnp.float32), axis=(0, 2))
    )
