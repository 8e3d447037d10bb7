"""The published architectures by name of their parts. Knows nothing of checkpoints; see a checkpoint's shapes for the truth."""

from __future__ import annotations

from vlascope_server.model.config import GemmaConfig, Lora, Pi0Config, VisionConfig

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
