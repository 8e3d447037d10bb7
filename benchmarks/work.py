"""Counts what one inference must do: floating-point operations of the matrix products, and bytes that must be read.

The count is of the whole program as the reference runs it: every token, every block. A program that skips some of it
looks faster by that much, which is the point. Knows nothing of time.
"""

from __future__ import annotations

import dataclasses

from vlascope_server.model import GemmaConfig, Pi0Config, parameter_shapes
from vlascope_server.model.parameters import count, under


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations (a multiply-add is two) by part, and bytes of parameters and keys read over one inference."""

    vision: float
    prefix: float
    denoise: float
    bytes_read: float

    @property
    def operations(self) -> float:
        """All parts together."""
        return self.vision + self.prefix + self.denoise


def count_work(config: Pi0Config, batch_size: int, num_steps: int, parameter_bytes: int) -> Work:
    """Work of one `sample_actions` with parameters of `parameter_bytes` bytes an element."""
    v, layout = config.vision, config.layout(num_steps)
    S, T, cameras = layout.vlm.tokens, layout.action.tokens, len(config.cameras)
    block = 2 * v.tokens * v.width * (4 * v.width + 2 * v.mlp_dim) + 4 * v.tokens**2 * v.width
    embed = 2 * v.tokens * v.width * (3 * v.patch_size**2 + config.vlm.width)
    vision = batch_size * cameras * (v.depth * block + embed)
    prefix = batch_size * config.vlm.depth * _block(config.vlm, S, S)
    a, width = config.action_dim, config.action.width
    flow = 2 * config.action_horizon * width * (2 * a + (0 if config.pi05 else 3 * width))
    denoise = batch_size * num_steps * (config.action.depth * _block(config.action, T, S + T) + flow)

    shapes = parameter_shapes(config)
    expert = {name: shape for name, shape in shapes.items() if "_1" in name}
    once = count(shapes) - count(expert) - count(under(shapes, "PaliGemma/llm/embedder"))
    cache = 2 * config.vlm.depth * batch_size * S * config.vlm.num_kv_heads * config.vlm.head_dim
    return Work(vision, prefix, denoise, parameter_bytes * (once + num_steps * (count(expert) + cache)))


def _block(g: GemmaConfig, queries: int, keys: int) -> float:
    heads = g.num_heads * g.head_dim
    projections = g.width * (2 * heads + 2 * g.num_kv_heads * g.head_dim)
    return 2 * queries * (projections + 3 * g.width * g.mlp_dim) + 4 * queries * keys * heads
