"""A checkpoint whose LoRA adapters are read as part of the weights that they change: effective weights, without adapters."""

from __future__ import annotations

import re

import numpy as np

from vlascope_server.checkpoints.boxes import Box
from vlascope_server.checkpoints.weights import Weights
from vlascope_server.model import Pi0Config

_ADAPTER = re.compile(r"(.*?)(/lora_[ab]|_lora_[ab])")


class MergedWeights:
    """Weights with their adapters' products added, in float32; what no adapter changes stays as it is stored.

    Args:
        weights: parameters, adapters among them.
        config: their architecture, which tells how the adapters are scaled.
    """

    def __init__(self, weights: Weights, config: Pi0Config):
        self._weights, self._config = weights, config
        self._adapters: dict[str, tuple[str, str]] = {}
        """Weight -> its two adapters."""
        for name in weights.shapes:
            if (found := _ADAPTER.fullmatch(name)) and name.endswith("_a"):
                base = f"{found[1]}/w" if found[2].startswith("/") else found[1]
                self._adapters[base] = (name, f"{name.removesuffix('_a')}_b")
        self.shapes = {name: shape for name, shape in weights.shapes.items() if not _ADAPTER.fullmatch(name)}
        self.dtypes = {
            name: "float32" if name in self._adapters else dtype
            for name, dtype in weights.dtypes.items()
            if name in self.shapes
        }

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """One effective parameter in `dtype`, or in that of `dtypes`."""
        if name not in self._adapters:
            return self._weights.read(name, dtype)
        whole = tuple(slice(0, size) for size in self.shapes[name])
        return self._added(name, whole, self._weights.read(name, "float32")).astype(dtype or "float32", copy=False)

    def pieces(self, name: str) -> list[Box]:
        """Those of the weight."""
        return list(self._weights.pieces(name))

    @property
    def parts_cost_the_whole(self) -> bool:
        """As of the weights."""
        return self._weights.parts_cost_the_whole

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of one effective parameter; holds the part as stored besides the result."""
        part = self._weights.read_box(name, box)
        return self._added(name, box, part.astype(np.float32)) if name in self._adapters else part

    def _added(self, name: str, box: Box, part: np.ndarray) -> np.ndarray:
        """`part` with the product of its adapters, layer by layer."""
        a, b = (self._weights.read(adapter, "float32") for adapter in self._adapters[name])
        expert = self._config.action if any(p.endswith("_1") for p in name.split("/")) else self._config.vlm
        scale = expert.attn_lora.scale if expert.attn_lora and "/attn/" in name else 1.0
        if "attn_vec_einsum" in name:
            # the model sums the second adapter over the heads before it multiplies (`_attn_out` in gemma.py)
            b = np.broadcast_to(b.sum(axis=1, keepdims=True), b.shape)
        *lead, rows, columns = box
        a, b = a[(*lead, rows)], b[(*lead, slice(None), columns)]
        for layer in range(len(part)):
            part[layer] += scale * (a[layer] @ b[layer])
        return part
