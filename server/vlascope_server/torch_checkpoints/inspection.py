"""Everything that is told about one PyTorch checkpoint, as one frozen value; tables, JSON and text are made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vlascope_server.torch_checkpoints.checkpoint import TorchCheckpoint
from vlascope_server.torch_checkpoints.components import (
    Counts,
    Recurrent,
    component_of,
    count,
    recurrent_networks,
    wrapper_of,
)
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.layout import LIGHTNING_VERSION, all_tensors, type_of
from vlascope_server.torch_checkpoints.lora import Lora, find_lora
from vlascope_server.torch_checkpoints.names import HookPoint, Judged, head_outputs, hook_points, judge_names
from vlascope_server.torch_checkpoints.tensors import TorchTensor
from vlascope_server.torch_checkpoints.values import Placeholder

_LONGEST_TEXT = 200
_MOST_VALUES = 500
_DEEPEST = 6


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is in a checkpoint.

    Attributes:
        checkpoint: the opened checkpoint.
        wrapper: what stands before every tensor's name.
        keys: what the file holds at the top: key -> type.
        training: epoch, step and losses as the file says them, under its own keys.
        framework: `PyTorch Lightning 2.2.2`; None where the file does not say.
        configuration: the plain values among the training's options; empty where there are none.
        counts: of the weights.
        beside: tensors outside of the weights: key at the top -> tensors, and bytes that no weight has.
        recurrent: networks such as the action head's LSTM, the largest first.
        outputs: branch of the action head -> numbers that it gives out.
        lora: None without adapters.
        judged: the policy that it is, with missing and unexpected names.
        hooks: where hidden states can be read.
        not_read: entries among the weights that are no tensors, and tensors of kinds that are not read (sparse, quantised).
    """

    checkpoint: TorchCheckpoint
    wrapper: str
    keys: dict[str, str]
    training: dict[str, Any]
    framework: str | None
    configuration: dict[str, Any]
    counts: Counts
    beside: dict[str, tuple[int, int]]
    recurrent: list[Recurrent]
    outputs: dict[str, int]
    lora: Lora | None
    judged: Judged
    hooks: list[HookPoint]
    not_read: dict[str, str]

    @property
    def head_network(self) -> Recurrent | None:
        """The recurrent network of the action head; None where it has none."""
        return next((network for network in self.recurrent if component_of(network.module) == "action_head"), None)


def inspect_checkpoint(checkpoint: TorchCheckpoint) -> Inspection:
    """Counts and names what an opened checkpoint holds; reads no tensor.

    Raises:
        TorchCheckpointError: tensors overlap in a way that would take very long to count.
    """
    content, tensors = checkpoint.content, checkpoint.tensors
    top = content if isinstance(content, dict) and checkpoint.place else {}
    wrapper = wrapper_of(tensors)
    try:
        counts = count(tensors, wrapper)
    except TorchCheckpointError as error:
        raise TorchCheckpointError(f"{checkpoint.path}: {error}") from None
    recurrent = recurrent_networks(tensors, wrapper)
    configuration = _configuration(top)
    forward_head = bool(configuration.get("fwd_head"))
    version = top.get(LIGHTNING_VERSION)
    return Inspection(
        checkpoint=checkpoint,
        wrapper=wrapper,
        keys={_text(key): type_of(value) for key, value in list(top.items())[:_MOST_VALUES]},
        training={
            key: value
            for key, value in list(top.items())[:_MOST_VALUES]
            if isinstance(key, str) and _is_number(value) and len(key) <= _LONGEST_TEXT
        },
        framework=f"PyTorch Lightning {_text(version)}" if isinstance(version, str) else None,
        configuration=configuration,
        counts=counts,
        beside=dict(_beside(checkpoint, top)),
        recurrent=recurrent,
        outputs=head_outputs(tensors, wrapper),
        lora=find_lora(tensors, counts.shared, content),
        judged=judge_names(tensors, wrapper, has_forward_head=forward_head),
        hooks=hook_points(tensors, wrapper, recurrent, counts.shared),
        not_read=_not_read(checkpoint),
    )


def _beside(checkpoint: TorchCheckpoint, top: Mapping[Any, Any]):
    """Tensors below each key that is not the weights', and the bytes of storages that were not counted before.

    What lies below two keys counts below the first: a list that every key holds is looked through once.
    """
    seen: set[int] = set()
    counted = {tensor.storage.key for tensor in checkpoint.tensors.values()}
    for key, value in top.items():
        if key == checkpoint.place[0]:
            continue
        tensors = list(all_tensors(value, seen))
        new = {tensor.storage.key: tensor.storage.bytes for tensor in tensors if tensor.storage.key not in counted}
        counted |= new.keys()
        if tensors:
            yield _text(key), (len(tensors), sum(new.values()))


def _not_read(checkpoint: TorchCheckpoint) -> dict[str, str]:
    place: Any = checkpoint.content
    for key in checkpoint.place:
        place = place[key]
    if not isinstance(place, dict):
        return {}
    return {_text(name): type_of(value) for name, value in place.items() if not isinstance(value, TorchTensor)}


def _configuration(top: Mapping[Any, Any]) -> dict[str, Any]:
    """The options of the training: RoboVLMs' `configs`, or all that Lightning keeps as `hyper_parameters`."""
    for key in ("hyper_parameters", "configs", "config", "hparams"):
        found = top.get(key)
        if isinstance(found, dict):
            inner = found.get("configs")
            return _plain(inner if isinstance(inner, dict) else found)
    return {}


def _plain(value: dict[Any, Any]) -> dict[str, Any]:
    """The numbers and short texts of a map, and of the maps in it; bounded in depth and number."""
    left = _MOST_VALUES

    def within_bound(values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            if left <= 0:  # one long list may be held by many others
                return
            yield value

    def taken(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if isinstance(value, Placeholder) and isinstance(value.state, dict) and depth < _DEEPEST:
            return {"<class>": value.name, **taken(value.state, depth)}
        if isinstance(value, dict) and depth < _DEEPEST:
            return {_text(key): taken(inner, depth + 1) for key, inner in within_bound(value.items())}
        if isinstance(value, list | tuple) and depth < _DEEPEST:
            return [taken(inner, depth + 1) for inner in within_bound(value)]
        if value is None or _is_number(value) or isinstance(value, bool):
            return value
        return _text(value) if isinstance(value, str) else f"<{type_of(value)}>"

    return taken(value, 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else f"<{type_of(value)}>" if not _is_number(value) else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
