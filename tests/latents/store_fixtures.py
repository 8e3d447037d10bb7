"""Small layouts, plans and frames whose every number follows from its place. Knows nothing of any test."""

from __future__ import annotations

import numpy as np
from vlascope_latents import (
    Blocks,
    CapturePlan,
    CaptureSpec,
    ModelLayout,
    Span,
    flow_components,
    plan_capture,
    transformer,
)

VLM = transformer(
    "vlm", Blocks(3, 512, 64), (Span("image/base", 0, 32), Span("image/wrist", 32, 64), Span("text", 64, 80)),
)  # fmt: skip
ACTION = transformer(
    "action", Blocks(3, 32, 48), (Span("state", 0, 1), Span("action", 1, 6)), loop="denoise", steps=4,
    sees=(VLM,), outputs=("action",), extra=flow_components(5, 7),
)  # fmt: skip
LAYOUT = ModelLayout((VLM, ACTION))
EVERYTHING = CaptureSpec(
    components=("hidden_states", "mlp_activation", "pre_attn_norm_scales", "x_t", "v_t"), layers=(0, 2)
)


def plan(spec: CaptureSpec = EVERYTHING) -> CapturePlan:
    return plan_capture(spec, LAYOUT)


def frame(capture: CapturePlan, number: int) -> dict[str, np.ndarray]:
    """Frame `number`: float32, exact in bfloat16."""
    rng = np.random.default_rng(number)
    return {tensor.path: (rng.integers(-128, 128, tensor.shape) / 16).astype(np.float32) for tensor in capture.tensors}


def values(number: int) -> dict:
    return {
        "actions": np.full((5, 7), number, np.float32),
        "denoise_time": 0.5 * number,
        "prompt_mask": np.arange(16) < number,
        "annotations": {"distance": np.float32(number), "pose": np.full(7, number, np.float64)},
    }
