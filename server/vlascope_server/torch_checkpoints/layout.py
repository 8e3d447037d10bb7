"""Finds the weights in what a checkpoint holds: a map from names to tensors, wherever it lies.

Training code saves weights alone or beside the optimiser's state, under a key that it chose itself. The weights are

1. the content itself, where it is a map of tensors: `flat`;
2. what `state_dict` holds, in a file that says its Lightning version: `lightning`;
3. what one of the usual keys holds: `nested:KEY`;
4. else the largest map of tensors that is not the optimiser's, up to three keys deep: `nested:KEY.KEY`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.tensors import TorchTensor
from vlascope_server.torch_checkpoints.values import Placeholder

LIGHTNING_VERSION = "pytorch-lightning_version"
_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params")
_DEEPEST = 3


def find_weights(path: Path, content: Any) -> tuple[str, tuple[str, ...], Mapping[str, TorchTensor]]:
    """Layout, the keys that lead to the weights, and the weights.

    Raises:
        TorchCheckpointError: no map of tensors is there; the message says what is.
    """
    if isinstance(content, Placeholder):
        raise TorchCheckpointError(
            f"{path}: a whole pickled object of class {content.name}; expected a state dict: load it where that class is"
            " installed, and save its state_dict()"
        )
    if isinstance(content, TorchTensor):
        raise TorchCheckpointError(f"{path}: one tensor of shape {content.shape}; expected a map from names to tensors")
    found = dict(tensor_maps(content))
    if () in found:
        return "flat", (), found[()]
    if not found:
        raise TorchCheckpointError(
            f"{path}: holds no map from names to tensors; expected a checkpoint, found {_described(content)}"
        )
    if ("state_dict",) in found and LIGHTNING_VERSION in content:
        return "lightning", ("state_dict",), found["state_dict",]
    usual = [(key,) for key in _USUAL if (key,) in found]
    mine = [place for place in found if not any("optim" in key.lower() for key in place)] or list(found)
    place = usual[0] if usual else max(mine, key=lambda place: sum(tensor.elements for tensor in found[place].values()))
    return f"nested:{'.'.join(place)}", place, found[place]


def tensor_maps(content: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, TorchTensor]]]:
    """Every map in the content whose values are tensors for the most part, with the keys that lead to it."""
    rest: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen: set[int] = set()
    while rest:
        place, value = rest.popleft()
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = {
            name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, TorchTensor)
        }
        if tensors and 2 * len(tensors) > len(value):
            yield place, tensors
        elif len(place) < _DEEPEST:
            rest += [((*place, key), inner) for key, inner in value.items() if isinstance(key, str)]


def all_tensors(value: Any, seen: set[int] | None = None) -> Iterator[TorchTensor]:
    """Every tensor below a value; the value may hold itself.

    Args:
        value: to look through.
        seen: `id` of the containers that were looked through before and are passed over; those below `value` are added.
    """
    rest, seen = [value], set() if seen is None else seen
    while rest:
        part = rest.pop()
        if isinstance(part, TorchTensor):
            yield part
            continue
        if not isinstance(part, dict | list | tuple | set | frozenset | Placeholder) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Placeholder):
            rest += [part.args, part.state, part.items, part.fields]
        elif isinstance(part, dict):
            rest += part.values()
        else:
            rest += part


def type_of(value: Any) -> str:
    """The type of a value as people call it, with the class that a placeholder stands for."""
    if isinstance(value, Placeholder):
        return value.name
    if isinstance(value, TorchTensor):
        return "Tensor"
    return "OrderedDict" if isinstance(value, OrderedDict) else type(value).__name__


def _described(content: Any) -> str:
    if isinstance(content, dict) and content:
        return (
            f"a map with {', '.join(f'{str(key)[:40]} ({type_of(value)})' for key, value in list(content.items())[:6])}"
        )
    return f"a value of type {type_of(content)}"
