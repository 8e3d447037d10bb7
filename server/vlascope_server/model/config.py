"""The architecture of a Pi0 or Pi0.5 policy as frozen values, and the published ones by name of their parts.

What a checkpoint truly is, its shapes say: `infer.py` reads them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from vlascope_latents import Blocks, ModelLayout, Span, flow_components, transformer

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""The reference's three image slots, in the order of their tokens."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters. The attention's product is scaled by alpha / rank, the feed-forward's not at all (as trained)."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """Factor on the attention adapters' product."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """One expert: a Gemma decoder. Both experts share depth, heads, kv heads and head size, since they share attention."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attn_lora: Lora | None = None
    ffn_lora: Lora | None = None


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The SigLIP image encoder; `image_size` and `patch_size` in pixels."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 14
    image_size: int = 224

    @property
    def tokens(self) -> int:
        """Image tokens of one camera."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class Pi0Config:
    """A policy's architecture; hashable, so that it can be a static argument of a jitted function.

    Attributes:
        pi05: Pi0.5: the denoise time enters through adaptive norms, and the state as text rather than as a token.
        vocabulary: rows of the text embedding.
        action_dim: width of state and actions inside the model, padded to the largest robot.
        action_horizon: actions in one chunk.
        max_token_len: text tokens, padding included.
        cameras: the cameras that the robot has, of the order in `CAMERAS`. An absent camera is no part of the program.
        dtype: of the activations. Norms, softmax, the flow state and its time are float32 in either case.

    Raises:
        ValueError: the experts disagree where they share attention, or a number makes no sense.
    """

    vision: VisionConfig
    vlm: GemmaConfig
    action: GemmaConfig
    pi05: bool = False
    vocabulary: int = 257152
    action_dim: int = 32
    action_horizon: int = 50
    max_token_len: int = 48
    cameras: tuple[str, ...] = CAMERAS
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for field in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            vlm, action = getattr(self.vlm, field), getattr(self.action, field)
            if vlm != action:
                raise ValueError(
                    f"{field}: the experts attend together, so they must agree; vlm {vlm}, action {action}"
                )
        if self.vlm.num_heads % self.vlm.num_kv_heads:
            raise ValueError(f"num_heads {self.vlm.num_heads} is no multiple of num_kv_heads {self.vlm.num_kv_heads}")
        if self.vision.image_size % self.vision.patch_size:
            raise ValueError(
                f"image_size {self.vision.image_size} is no multiple of patch_size {self.vision.patch_size}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"dtype {self.dtype!r}: allowed are float32 and bfloat16 (float16 overflows the residual stream)"
            )
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: expected at least one, each once; got {list(self.cameras)}")

    def with_cameras(self, *cameras: str) -> Pi0Config:
        """The same policy on a robot that has these cameras; same parameters, fewer image tokens."""
        return dataclasses.replace(self, cameras=cameras)

    def layout(self, num_steps: int = 10) -> ModelLayout:
        """What there is to capture of both experts, for a flow of `num_steps` denoise steps."""
        n = self.vision.tokens
        prefix = [(f"image/{camera}", n) for camera in self.cameras] + [("text", self.max_token_len)]
        suffix = [("action", self.action_horizon)] if self.pi05 else [("state", 1), ("action", self.action_horizon)]
        vlm = transformer("vlm", _blocks(self.vlm), _spans(prefix))
        action = transformer(
            "action", _blocks(self.action), _spans(suffix), loop="denoise", steps=num_steps, sees=(vlm,), outputs=("action",),
            extra=flow_components(self.action_horizon, self.action_dim),
        )  # fmt: skip
        return ModelLayout((vlm, action))


def _blocks(config: GemmaConfig) -> Blocks:
    sizes = config.depth, config.width, config.mlp_dim, config.num_heads, config.num_kv_heads, config.head_dim
    return Blocks(*sizes)


def _spans(parts: list[tuple[str, int]]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for name, length in parts:
        start = spans[-1].stop if spans else 0
        spans.append(Span(name, start, start + length))
    return tuple(spans)


SIGLIP_SO400M = VisionConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16)


def gemma_2b(lora: Lora | None = None) -> GemmaConfig:
    """The vision-language expert of Pi0 and Pi0.5."""
    return GemmaConfig(2048, 18, 16384, num_heads=8, num_kv_heads=1, head_dim=256, attn_lora=lora, ffn_lora=lora)


def gemma_300m(lora: Lora | None = None) -> GemmaConfig:
    """The action expert of Pi0 and Pi0.5."""
    return GemmaConfig(1024, 18, 4096, num_heads=8, num_kv_heads=1, head_dim=256, attn_lora=lora, ffn_lora=lora)


def full_size(*, pi05: bool = False, lora: bool = False) -> Pi0Config:
    """Pi0 or Pi0.5 as published, with the token lengths of their base checkpoints; `lora` adds the fine-tuning adapters."""
    return Pi0Config(
        SIGLIP_SO400M,
        gemma_2b(Lora(16, 16.0) if lora else None),
        gemma_300m(Lora(32, 32.0) if lora else None),
        pi05=pi05,
        max_token_len=200 if pi05 else 48,
    )
