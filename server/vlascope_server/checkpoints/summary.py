"""Says what is in a checkpoint without reading its weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vlascope_server.checkpoints.source import Source
from vlascope_server.checkpoints.weights import dtype_of
from vlascope_server.options import COMPONENTS


@dataclasses.dataclass
class Group:
    """Parameters of one kind within one component; `bytes` as stored."""

    component: str
    group: str
    tensors: int = 0
    elements: int = 0
    bytes: int = 0
    dtypes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is in a checkpoint.

    Attributes:
        path: the parameters on this machine, or what they are where they were drawn anew.
        kind: the format.
        model: `pi0` or `pi0.5`.
        architecture: the configuration as a map; null where neither parameters nor record nor preset say.
        groups: in the order of `COMPONENTS`.
        norm_stats: asset id -> quantity -> width and whether quantiles are there.
        record: what `vlascope.json`, the preset or the files say beyond the shapes.
        features: of LeRobot's policy, in its own names: `cameras` (image slot -> camera), `state_dim`, `action_dim`; null for
            another checkpoint.
    """

    path: str
    kind: str
    model: str
    architecture: dict[str, Any]
    groups: list[Group]
    norm_stats: dict[str, dict[str, dict[str, Any]]]
    record: dict[str, Any]
    features: dict[str, Any] | None

    def total(self, component: str | None = None) -> Group:
        """Sum over the groups of one component, or over all."""
        chosen = [g for g in self.groups if component in (None, g.component)]
        return Group(
            component or "total",
            "all",
            sum(g.tensors for g in chosen),
            sum(g.elements for g in chosen),
            sum(g.bytes for g in chosen),
            tuple(sorted({dtype for g in chosen for dtype in g.dtypes})),
        )


def summarise(source: Source) -> Summary:
    """The summary of an opened checkpoint.

    Raises:
        CheckpointError: the parameters are no Pi0 or Pi0.5, or statistics beside them cannot be read.
    """
    config = source.config()
    architecture = dataclasses.asdict(config)
    del architecture["dtype"], architecture["pi05"]  # of the activations, which nobody has chosen yet; and `model`
    for field in ("action_horizon", "max_token_len", "cameras"):
        architecture[field] = getattr(source.record, field)
    architecture["image_tokens"] = config.vision.tokens
    return Summary(
        path=source.origin,
        kind=f"drawn, as {source.kind}" if source.drawn else source.kind,
        model="pi0.5" if config.pi05 else "pi0",
        architecture=architecture,
        groups=_groups(source),
        norm_stats=_norm_stats(source),
        record=dataclasses.asdict(source.record),
        features=None if source.features is None else dataclasses.asdict(source.features),
    )


def place(name: str) -> tuple[str, str]:
    """Component and group of a parameter."""
    parts = name.split("/")
    if parts[0] != "PaliGemma":
        return "projections", parts[0]
    if parts[1] == "img":
        return "vision", _kind(parts[2:])
    second = any(part.endswith("_1") for part in parts[2:])
    return ("action expert" if second else "vlm"), _kind(parts[2:])


def is_layered(name: str) -> bool:
    """Whether a parameter's first axis is the layers."""
    return name.startswith(("PaliGemma/llm/layers/", "PaliGemma/img/Transformer/encoderblock/"))


def _kind(parts: list[str]) -> str:
    if "lora_" in parts[-1]:
        return "lora"
    if parts[0] == "head":
        return "projection to vlm"
    for group, marks in (("attention", ("attn", "Attention")), ("mlp", ("mlp", "Mlp")), ("norms", ("norm", "Norm"))):
        if any(part.startswith(mark) or mark in part for part in parts for mark in marks):
            return group
    return "embedding"


def _groups(source: Source) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for name, shape in source.weights.shapes.items():
        stored = source.weights.dtypes[name]
        entry = groups.setdefault(place(name), Group(*place(name)))
        elements = int(np.prod(shape, dtype=np.int64))
        entry.tensors += 1
        entry.elements += elements
        entry.bytes += elements * dtype_of(stored).itemsize
        entry.dtypes = tuple(sorted({*entry.dtypes, stored}))
    return sorted(groups.values(), key=lambda g: (COMPONENTS.index(g.component), g.group))


def _norm_stats(source: Source) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        asset_id: {
            key: {"width": entry.width, "quantiles": entry.q01 is not None}
            for key, entry in source.norm_stats(asset_id).items()
        }
        for asset_id in source.asset_ids
    }
