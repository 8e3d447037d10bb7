"""Counts what one inference must do: floating-point operations of the matrix products, and bytes that must be read.

The count is of the whole program as the reference runs it: every token, every block. A program that skips some of it
looks faster by that much, which is the point.
"""

from __future__ import annotations

import dataclasses

from vlascope_server.model import GemmaConfig, Pi0Config, parameter_shapes
from vlascope_server.model.parameters import count, under


@dataclasses.dataclass(frozen=True)
class Phase:
    """One part of an inference.

    Attributes:
        operations: of its matrix products; a multiply-add is two.
        bytes_read: parameters, and keys and values, each as often as it has to be read.
    """

    operations: float
    bytes_read: float

    def seconds(self, operations_per_second: float, bytes_per_second: float) -> float:
        """The least that a machine of these rates takes: the longer of computing and of reading."""
        return max(self.operations / operations_per_second, self.bytes_read / bytes_per_second)


@dataclasses.dataclass(frozen=True)
class Work:
    """An inference by phase: each has a roofline of its own, and they follow each other, so that their seconds add up.

    Attributes:
        vision: SigLIP over every camera.
        prefix: the vision-language expert over the prefix, without vision.
        denoise: all passes of the action expert over the suffix.
    """

    vision: Phase
    prefix: Phase
    denoise: Phase

    @property
    def phases(self) -> dict[str, Phase]:
        """By name, in order."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def operations(self) -> float:
        """Of all phases."""
        return sum(phase.operations for phase in self.phases.values())

    @property
    def bytes_read(self) -> float:
        """Of all phases."""
        return sum(phase.bytes_read for phase in self.phases.values())

    def seconds(self, operations_per_second: float, bytes_per_second: float) -> float:
        """The least that a machine of these rates takes for all phases, one after the other."""
        return sum(phase.seconds(operations_per_second, bytes_per_second) for phase in self.phases.values())


def count_work(config: Pi0Config, batch_size: int, num_steps: int, parameter_bytes: int) -> Work:
    """Work of one `sample_actions` with parameters of `parameter_bytes` bytes an element."""
    v, layout = config.vision, config.layout(num_steps)
    S, T, cameras = layout.expert("vlm").tokens, layout.expert("action").tokens, len(config.cameras)
    block = 2 * v.tokens * v.width * (4 * v.width + 2 * v.mlp_dim) + 4 * v.tokens**2 * v.width
    embed = 2 * v.tokens * v.width * (3 * v.patch_size**2 + config.vlm.width)
    vision = batch_size * cameras * (v.depth * block + embed)
    prefix = batch_size * config.vlm.depth * _block(config.vlm, S, S)
    a, width = config.action_dim, config.action.width
    flow = 2 * config.action_horizon * width * (2 * a + (0 if config.pi05 else 3 * width))
    denoise = batch_size * num_steps * (config.action.depth * _block(config.action, T, S + T) + flow)

    shapes = parameter_shapes(config)
    img = {name: shape for name, shape in shapes.items() if name.startswith("PaliGemma/img")}
    llm = {name: shape for name, shape in shapes.items() if name.startswith("PaliGemma/llm") and "_1" not in name}
    llm_read = count(llm) - count(under(shapes, "PaliGemma/llm/embedder"))
    action = count(shapes) - count(img) - count(llm)
    cache = 2 * config.vlm.depth * batch_size * S * config.vlm.num_kv_heads * config.vlm.head_dim
    return Work(
        Phase(vision, parameter_bytes * count(img)),
        Phase(prefix, parameter_bytes * llm_read),
        Phase(denoise, parameter_bytes * num_steps * (action + cache)),
    )


def _block(g: GemmaConfig, queries: int, keys: int) -> float:
    heads = g.num_heads * g.head_dim
    projections = g.width * (2 * heads + 2 * g.num_kv_heads * g.head_dim)
    return 2 * queries * (projections + 3 * g.width * g.mlp_dim) + 4 * queries * keys * heads
