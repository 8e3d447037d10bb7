"""Reads off the LoRA adapters of PEFT: their ranks from shapes, their scale from the configuration in the checkpoint.

An adapted layer `NAME` is saved as `NAME.base_layer.weight`, `NAME.lora_A.ADAPTER.weight` (rank, in) and
`NAME.lora_B.ADAPTER.weight` (out, rank). What is added to the base layer's weight is `scale · B · A`, with `scale = alpha /
rank`, or `alpha / √rank` with rank-stabilised LoRA (Hu et al. 2021, section 4.1; Kalajdzievski 2023). Shapes do not tell alpha.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from vlascope_server.torch_checkpoints.tensors import TorchTensor
from vlascope_server.torch_checkpoints.values import Placeholder

_PART = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")
_DEEPEST = 8
_MOST_VALUES = 100_000


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters in a checkpoint.

    Attributes:
        tensors_named: tensors of adapters, every name for itself.
        layers: adapted layers, each once.
        ranks: every rank that occurs, rising.
        alpha: None where the checkpoint does not say.
        alpha_from: the keys that lead to it.
        scale: what the product of the adapters is multiplied by; None without alpha, or where ranks differ.
        incomplete: layers of which one of the two matrices is missing.
    """

    tensors_named: int
    layers: int
    ranks: tuple[int, ...]
    alpha: float | None
    alpha_from: str | None
    scale: float | None
    incomplete: tuple[str, ...]


def find_lora(tensors: Mapping[str, TorchTensor], shared: Mapping[str, str], content: Any) -> Lora | None:
    """The adapters among the weights; None where there are none.

    Args:
        tensors: the weights.
        shared: names of values that an earlier name has too.
        content: what the checkpoint holds, in which the configuration is searched.
    """
    named = [name for name in tensors if _PART.search(name)]
    if not named:
        return None
    halves: dict[str, set[str]] = {}
    ranks = set()
    for name in named:
        if name in shared:
            continue
        layer, part = _PART.split(name)[:2]
        halves.setdefault(layer, set()).add(part[-1])
        shape = tensors[name].shape
        if part in ("A", "B") and len(shape) >= 2:
            ranks.add(shape[0 if part == "A" else 1])
    settings = dict(_settings(content))
    place = next((place for place in settings if place[-1] == "lora_alpha"), None)
    alpha = None if place is None else float(settings[place])
    stabilised = any(place[-1] == "use_rslora" and value for place, value in settings.items())
    scale = None
    if alpha is not None and len(ranks) == 1 and (rank := min(ranks)):
        scale = alpha / (math.sqrt(rank) if stabilised else rank)
    incomplete = tuple(sorted(layer for layer, parts in halves.items() if not {"A", "B"} <= parts))
    return Lora(
        len(named), len(halves), tuple(sorted(ranks)), alpha, ".".join(place) if place else None, scale, incomplete
    )


def _settings(content: Any) -> Iterator[tuple[tuple[str, ...], float]]:
    """Numbers in the configuration whose key is one of LoRA's, with the keys that lead there; the shallowest first."""
    rest: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen: set[int] = set()
    while rest and len(seen) < _MOST_VALUES:
        place, value = rest.popleft()
        if isinstance(value, Placeholder):
            value = value.state if isinstance(value.state, dict) else value.fields
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        for key, inner in value.items():
            if not isinstance(key, str):
                continue
            if key in ("lora_alpha", "use_rslora") and isinstance(inner, int | float) and math.isfinite(inner):
                yield (*place, key), inner
            elif len(place) < _DEEPEST and isinstance(inner, dict | Placeholder):
                rest.append(((*place, key), inner))
