"""Counts what a policy's weights are made of: backbone, action head, action token, and the rest.

A state dict may list the same values under two names: a LoRA model that is an attribute twice, a tied embedding. So
everything is counted in two ways:

- *named*: every name in the file for itself, which is what a loop over the state dict adds up;
- *unique*: every value once, at the first name that holds it, which is what memory has to hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from vlascope_server.torch_checkpoints.coverage import Region, new_bytes, region
from vlascope_server.torch_checkpoints.tensors import TorchTensor

COMPONENTS = ("vlm", "action_head", "action_token", "other")

_WRAPPERS = ("module.", "model.", "policy.", "_orig_mod.", "_forward_module.")
"""What DistributedDataParallel, Lightning, a trainer with a policy, torch.compile and DeepSpeed put before every name."""
_PEFT = "base_model.model."
"""What PEFT puts before the names of what it adapts: the backbone alone, or a whole policy."""
_LONGEST_WRAPPER = 64
"""Letters: some wrappers inside of each other."""
_HEADS = re.compile(r"(act(ion)?_(\w+_)?(head|decoder|expert)|action_\w*(proj|head)\w*|policy_head|lstm|rnn|gru)\b")
_VLM = re.compile(
    r"(backbone|base_model|vlm|llm|\w*kosmos\w*|\w*clip\w*|\w*paligemma\w*|\w*llava\w*|\w*qwen\w*|text_model|vision_\w+"
    r"|language_model|image_to_text_projection|multi_modal_projector)\b"
)
_RECURRENT = re.compile(
    r"(?P<module>.*?)\.?(?P<kind>weight|bias)_(?P<of>ih|hh|hr)_l(?P<layer>\d{1,3})(?P<back>_reverse)?"
)


@dataclasses.dataclass
class Count:
    """Tensors, elements and bytes, of all names and of each value once."""

    tensors_named: int = 0
    elements_named: int = 0
    bytes_named: int = 0
    tensors_unique: int = 0
    elements_unique: int = 0
    bytes_unique: int = 0


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """A recurrent network of torch, read off the shapes of its tensors.

    Attributes:
        module: its name without the wrapper.
        kind: `LSTM`, `GRU` or `RNN`; None where a layer is not whole enough to tell.
        tensors, elements: of all its layers.
        input_size: numbers that go in at each step; None where the tensor that tells is missing.
        hidden_size: numbers that come out.
    """

    module: str
    kind: str | None
    tensors: int
    elements: int
    input_size: int | None
    hidden_size: int | None
    num_layers: int
    bidirectional: bool


@dataclasses.dataclass(frozen=True)
class Counts:
    """All counts of the weights.

    Attributes:
        total: of all components.
        components: by name, in the order of `COMPONENTS`.
        dtypes: by dtype, in the order of their first tensor.
        shared: name -> the earlier name that has the very same values.
    """

    total: Count
    components: dict[str, Count]
    dtypes: dict[str, Count]
    shared: dict[str, str]


def wrapper_of(names: Iterable[str]) -> str:
    """What stands before every name and is no part of the model: `model.`, `module.` or several of these; may be empty."""
    rest, found = list(names), ""
    while rest and len(found) < _LONGEST_WRAPPER:
        wrapper = next((w for w in (*_WRAPPERS, _PEFT) if all(name.startswith(w) for name in rest)), None)
        if wrapper == _PEFT and all(component_of(name) == "vlm" for name in rest):
            break  # an adapted backbone, whose names say so
        if wrapper is None:
            break
        found += wrapper
        rest = [name.removeprefix(wrapper) for name in rest]
    return found


def component_of(name: str) -> str:
    """The component that a tensor belongs to, by its name without the wrapper."""
    inner = _unwrapped(name)
    for known in dict.fromkeys((name, inner, inner.removeprefix(_PEFT))):
        first = known.partition(".")[0]
        if "action_token" in (first, known.rpartition(".")[2]):
            return "action_token"
        if _HEADS.match(first):
            return "action_head"
    # a LoRA model's own attribute is `model.base_model.model`
    return "vlm" if any(_VLM.match(part) for known in (name, inner) for part in known.split(".", 3)[:3]) else "other"


def _unwrapped(name: str) -> str:
    """A name behind the wrappers that it begins with; other names of the file may have others."""
    found = 0
    while found < _LONGEST_WRAPPER:
        wrapper = next((w for w in _WRAPPERS if name.startswith(w, found)), None)
        if wrapper is None:
            break
        found += len(wrapper)
    return name[found:]


def count(tensors: Mapping[str, TorchTensor], wrapper: str) -> Counts:
    """Counts tensors; `wrapper` is what `wrapper_of` found.

    Raises:
        TorchCheckpointError: tensors overlap in a way that would take very long to count.
    """
    total, dtypes = Count(), {}
    components = {name: Count() for name in COMPONENTS}
    regions = {name: (tensor.storage.key, region(tensor)) for name, tensor in tensors.items() if tensor.elements}
    new = new_bytes(regions)
    views: dict[tuple[str, Region], str] = {}
    shared: dict[str, str] = {}
    for name, tensor in tensors.items():
        own = components[component_of(name.removeprefix(wrapper))]
        if name in regions and (first := views.setdefault(regions[name], name)) != name:
            shared[name] = first
        elements = new.get(name, 0) // tensor.itemsize
        for entry in (total, own, dtypes.setdefault(tensor.dtype, Count())):
            entry.tensors_named += 1
            entry.elements_named += tensor.elements
            entry.bytes_named += tensor.bytes
            entry.tensors_unique += name not in shared
            entry.elements_unique += elements
            entry.bytes_unique += elements * tensor.itemsize
    return Counts(total, components, dtypes, shared)


def recurrent_networks(tensors: Mapping[str, TorchTensor], wrapper: str) -> list[Recurrent]:
    """The recurrent networks among the weights, the largest first."""
    found: dict[str, dict[tuple[str, str, int, str], TorchTensor]] = {}
    for name, tensor in tensors.items():
        if match := _RECURRENT.fullmatch(name.removeprefix(wrapper)):
            key = (match["kind"], match["of"], int(match["layer"]), match["back"] or "")
            found.setdefault(match["module"], {})[key] = tensor
    return sorted((_recurrent(module, parts) for module, parts in found.items()), key=lambda r: (-r.elements, r.module))


def _recurrent(module: str, parts: Mapping[tuple[str, str, int, str], TorchTensor]) -> Recurrent:
    layers = sorted({layer for _, _, layer, _ in parts})
    into, hidden, gates = parts.get(("weight", "ih", 0, "")), None, None
    for (kind, of, _, _), tensor in parts.items():
        if kind == "weight" and of == "hh" and len(tensor.shape) == 2:
            hidden, rows = tensor.shape[1], tensor.shape[0]
            gates = rows // hidden if hidden else None
            break
    return Recurrent(
        module=module,
        kind={4: "LSTM", 3: "GRU", 1: "RNN"}.get(gates or 0),
        tensors=len(parts),
        elements=sum(tensor.elements for tensor in parts.values()),
        input_size=into.shape[1] if into and len(into.shape) == 2 else None,
        hidden_size=hidden,
        num_layers=layers[-1] + 1,
        bidirectional=any(back for *_, back in parts),
    )
