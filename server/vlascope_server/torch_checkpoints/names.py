"""What the names of tensors tell: RoboVLMs' Kosmos policy and which names it should have; places to hook into; what a head
gives out.

Names are compared without their wrapper (`components.wrapper_of`) and without what PEFT puts in: a LoRA model that is saved
as the attribute `backbone` and inside of `model.base_model.model` is the same backbone, and `q_proj.base_layer.weight` is the
weight of `q_proj`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from vlascope_server.torch_checkpoints.components import Recurrent, component_of
from vlascope_server.torch_checkpoints.tensors import TorchTensor

ROBOKOSMOS = "RoboKosMos"
"""RoboVLMs' policy on a Kosmos-2 backbone."""

_PEFT = re.compile(r"^(model\.)?base_model\.model\.")
_LORA = re.compile(r"\.lora_\w+(\.|$)")
_STACK = re.compile(r"(?P<stack>.*?\.(?:layers|blocks|resblocks|h))\.(?P<index>\d{1,4})\.")
_LAST_NORMS = ("layer_norm", "norm", "post_layernorm", "final_layer_norm", "final_layernorm", "ln_f", "ln_post")
_PROJECTIONS = ("image_to_text_projection", "multi_modal_projector", "vision_resampler", "perceiver", "mm_projector")
_OPTIONAL = (
    "backbone.text_model.lm_head.weight",  # tied to the embedding, and unused by a policy
    "backbone.text_model.model.embed_positions.weights",  # sines, which some versions save
    "backbone.vision_model.model.embeddings.position_ids",
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Whether the names are those of a policy that is known here.

    Attributes:
        model: its name; None where it is not known, and the other two are empty.
        missing: names that it should have, without a wrapper.
        unexpected: names that it should not have, without a wrapper.
    """

    model: str | None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class HookPoint:
    """A module of the running policy at which hidden states can be read.

    Attributes:
        module: for `policy.get_submodule`; N stands for the number of a layer.
        read: `input` or `output`.
        width: numbers of each vector; None where the names do not tell.
        layers: how many layers N may be; None where there is no N.
        what: what it is, in a clause.
    """

    module: str
    read: str
    width: int | None
    layers: int | None
    what: str


def canonical(name: str, wrapper: str) -> str | None:
    """A name without wrapper and PEFT's parts; None for a tensor of an adapter."""
    if _LORA.search(name):
        return None
    return _PEFT.sub("backbone.", name.removeprefix(wrapper)).replace(".base_layer.", ".")


def judge_names(names: Iterable[str], wrapper: str, *, has_forward_head: bool = False) -> Judged:
    """Compares names with those of the policies that are known; their sizes and depths are read off the names.

    Args:
        names: of all tensors.
        wrapper: what stands before each.
        has_forward_head: the configuration asks for a head that predicts images.
    """
    found = {short for name in names if (short := canonical(name, wrapper)) is not None}
    text = _depth(found, "backbone.text_model.model.layers")
    vision = _depth(found, "backbone.vision_model.model.encoder.layers")
    if not text or not (vision or any(name.startswith("backbone.image_to_text_projection.") for name in found)):
        return Judged(None)
    expected = {"action_token", *_kosmos(text, vision), *_head(found)}
    missing = sorted(expected - found)
    unknown_head = not any(name.startswith("act_head.rnn.") for name in found)
    unexpected = sorted(
        name
        for name in found - expected - set(_OPTIONAL)
        if not (unknown_head and name.startswith("act_head."))
        and not (has_forward_head and name.startswith("fwd_head."))
    )
    return Judged(ROBOKOSMOS, tuple(missing), tuple(unexpected))


def _depth(names: Iterable[str], stack: str) -> int:
    indices = [int(m["index"]) for name in names if (m := _STACK.match(name)) and m["stack"] == stack]
    return max(indices, default=-1) + 1


def _pair(*modules: str) -> Iterator[str]:
    for module in modules:
        yield f"{module}.weight"
        yield f"{module}.bias"


def _attention(module: str) -> Iterator[str]:
    yield from _pair(*(f"{module}.{part}_proj" for part in ("q", "k", "v", "out")))


def _kosmos(text: int, vision: int) -> Iterator[str]:
    """The parameters of transformers' Kosmos-2, but for its language head."""
    root = "backbone.text_model.model"
    yield f"{root}.embed_tokens.weight"
    yield from _pair(f"{root}.layer_norm")
    for layer in (f"{root}.layers.{i}" for i in range(text)):
        yield from _attention(f"{layer}.self_attn")
        yield from _pair(
            f"{layer}.self_attn.inner_attn_ln", f"{layer}.self_attn_layer_norm", f"{layer}.final_layer_norm"
        )
        yield from _pair(f"{layer}.ffn.fc1", f"{layer}.ffn.fc2", f"{layer}.ffn.ffn_layernorm")
    root = "backbone.vision_model.model"
    yield f"{root}.embeddings.class_embedding"
    yield f"{root}.embeddings.patch_embedding.weight"
    yield f"{root}.embeddings.position_embedding.weight"
    yield from _pair(f"{root}.pre_layrnorm", f"{root}.post_layernorm")
    for layer in (f"{root}.encoder.layers.{i}" for i in range(vision)):
        yield from _attention(f"{layer}.self_attn")
        yield from _pair(f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
    root = "backbone.image_to_text_projection"
    yield f"{root}.latent_query"
    yield from _pair(f"{root}.dense")
    yield from _attention(f"{root}.x_attn")


def _head(found: set[str]) -> Iterator[str]:
    """The parameters of a recurrent head with as many layers and branches as names were found of."""
    head = {name for name in found if name.startswith("act_head.")}
    if not head:
        yield "act_head.rnn.weight_ih_l0"
    layers = {int(m[1]) for name in head if (m := re.fullmatch(r"act_head\.rnn\.\w+?_l(\d{1,3})", name))}
    for layer in range(max(layers, default=-1) + 1):
        yield from (f"act_head.rnn.{kind}_{of}_l{layer}" for kind in ("weight", "bias") for of in ("ih", "hh"))
    last: dict[str, int] = {}
    for name in head:
        if m := re.fullmatch(r"act_head\.(\w+)\.mlp\.(\d{1,3})\.(weight|bias)", name):
            last[m[1]] = max(last.get(m[1], 0), int(m[2]))
    for branch, index in last.items():
        # every other module is an activation, which has no parameters
        yield from _pair(*(f"act_head.{branch}.mlp.{i}" for i in range(index % 2, index + 1, 2)))


def head_outputs(tensors: Mapping[str, TorchTensor], wrapper: str) -> dict[str, int]:
    """Branch of the action head -> how many numbers its last layer gives out."""
    last: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        short = canonical(name, wrapper)
        if (
            short is None
            or component_of(short) != "action_head"
            or not short.endswith(".weight")
            or len(tensor.shape) != 2
        ):
            continue
        module = short.removesuffix(".weight")
        branch, _, index = module.rpartition(".")
        number = int(index) if index.isdigit() and len(index) < 4 else None
        key = module if number is None else branch
        last[key] = max(last.get(key, (-1, 0)), (number or 0, tensor.shape[0]))
    return {branch: width for branch, (_, width) in sorted(last.items())}


def hook_points(
    tensors: Mapping[str, TorchTensor], wrapper: str, recurrent: list[Recurrent], shared: Mapping[str, str]
) -> list[HookPoint]:
    """Where hidden states can be read, by the names alone: likely places, not a promise that the code calls them so."""
    shapes = {}
    for name, tensor in tensors.items():
        if name not in shared and (short := canonical(name, wrapper)) is not None:
            shapes.setdefault(short, tensor.shape)
    found = []
    core = next((r for r in recurrent if component_of(r.module) == "action_head"), None)
    if any(name.startswith("act_head.") for name in shapes):
        width = core.input_size if core else None
        found.append(
            HookPoint("act_head", "input", width, None, "the context: what the backbone hands to the action head")
        )
    elif core:
        found.append(HookPoint(core.module, "input", core.input_size, None, "what the recurrent action head reads"))
    stacks: dict[str, set[int]] = {}
    for name in shapes:
        if (m := _STACK.match(name)) and component_of(name) != "action_head":
            stacks.setdefault(m["stack"], set()).add(int(m["index"]))
    for stack, indices in stacks.items():
        norm, width = _last_norm(stack, shapes)
        if norm:
            what = "the last hidden states of all positions, normalised; the context is that at the action token"
            what = what if "text" in stack or "language" in stack else "the last hidden states, normalised"
            found.append(HookPoint(norm, "output", width, None, what))
        found.append(HookPoint(f"{stack}.N", "output", width, max(indices) + 1, "the residual stream behind a block"))
    for part in _PROJECTIONS:
        module = next((name[: name.index(part) + len(part)] for name in shapes if f".{part}." in f".{name}"), None)
        if module:
            width = shapes.get(f"{module}.dense.weight", (None,))[0]
            found.append(HookPoint(module, "output", width, None, "image features as the language model reads them"))
    if core:
        found.append(
            HookPoint(
                core.module, "output", core.hidden_size, None, "what the recurrent network remembers, a vector a step"
            )
        )
    return found


def _last_norm(stack: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str | None, int | None]:
    """The norm behind a stack of layers, which lies beside it or beside its parent, and its width."""
    parent = stack.rpartition(".")[0]
    for root in (parent, parent.rpartition(".")[0]):
        for norm in _LAST_NORMS:
            shape = shapes.get(f"{root}.{norm}.weight")
            if root and shape is not None and len(shape) == 1:
                return f"{root}.{norm}", shape[0]
    return None, None
