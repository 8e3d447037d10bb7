"""Names and axis orders of the reference's PyTorch model, derived by rule from the names of its JAX parameters.

One rule says for a parameter which torch tensors hold it and how a tensor's axes are ordered. LeRobot's port of the model has
the same tensors under other names; `reference_name` translates these.

L layers, N heads, H head size, D width in, E width out, P patch size. Torch keeps linear maps as (out, in).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np

_ROOT = "paligemma_with_expert"
_VISION = f"{_ROOT}.paligemma.model.vision_tower.vision_model"
_VLM = f"{_ROOT}.paligemma.model.language_model"
_EXPERT = f"{_ROOT}.gemma_expert.model"

EMBEDDING = f"{_VLM}.embed_tokens.weight"
LM_HEAD = f"{_ROOT}.paligemma.lm_head.weight"
"""Tied to `EMBEDDING`; the reference's files hold it under this name alone."""
EXPERT_LM_HEAD = f"{_ROOT}.gemma_expert.lm_head.weight"
"""Never used nor trained, but the reference's strict loader wants it; rows: vocabulary, columns: action width."""

LEROBOT_PREFIX = "model."
"""LeRobot's policy holds the network as its attribute `model` (policies/pi0/modeling_pi0.py)."""
LEROBOT_NORMALISERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Modules in which LeRobot before 0.4 held statistics, beside the network."""

_BEFORE_TRANSFORMERS_4_52 = {
    "paligemma.language_model.lm_head.": "paligemma.lm_head.",
    "paligemma.language_model.model.": "paligemma.model.language_model.",
    "paligemma.vision_tower.": "paligemma.model.vision_tower.",
    "paligemma.multi_modal_projector.": "paligemma.model.multi_modal_projector.",
}
"""Where PaliGemma's modules were when LeRobot first ported Pi0 -> where they are since (huggingface/lerobot#1415)."""

Shape = tuple[int, ...]


def reference_name(stored: str) -> str:
    """The reference's name of a tensor that is stored under LeRobot's name, old or new; any other name stays as it is."""
    name = stored.removeprefix(LEROBOT_PREFIX)
    for old, new in _BEFORE_TRANSFORMERS_4_52.items():
        if name.startswith(f"{_ROOT}.{old}"):
            return f"{_ROOT}.{new}{name.removeprefix(f'{_ROOT}.{old}')}"
    return name


@dataclasses.dataclass(frozen=True)
class AxisOrder:
    """How one torch tensor holds one slice x of a parameter; the shape of x is the parameter's without its index axes."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_jax: Callable[[np.ndarray, Shape], np.ndarray]
    """Takes the shape of x, which torch's merged head axes no longer tell."""


SAME = AxisOrder(lambda x: x, lambda t, s: t)
LINEAR = AxisOrder(lambda x: x.T, lambda t, s: t.T)  # (D, E)
HEADS_BIAS = AxisOrder(lambda x: x.reshape(-1), lambda t, s: t.reshape(s))  # (N, H)
HEADS_LAST = AxisOrder(lambda x: x.reshape(x.shape[0], -1).T, lambda t, s: t.T.reshape(s))  # (D, N, H)
HEADS_FIRST = AxisOrder(  # (N, D, H)
    lambda x: x.transpose(0, 2, 1).reshape(-1, x.shape[1]),
    lambda t, s: t.reshape(s[0], s[2], s[1]).transpose(0, 2, 1),
)
HEADS_OUT = AxisOrder(lambda x: x.reshape(-1, x.shape[-1]).T, lambda t, s: t.T.reshape(s))  # (N, H, E)
PATCHES = AxisOrder(lambda x: x.transpose(3, 2, 0, 1), lambda t, s: t.transpose(2, 3, 1, 0))  # (P, P, 3, E)
POSITIONS = AxisOrder(lambda x: x[0], lambda t, s: t[None])  # (1, tokens, D)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one parameter goes.

    Attributes:
        tensors: torch names; `{}` stands for the layer, and makes the parameter's first axis the layers. Several names
            share the axis after it (gate and up, key and value).
        axes: how each of these tensors holds its slice.
    """

    tensors: tuple[str, ...]
    axes: AxisOrder

    @property
    def stacked(self) -> bool:
        """Whether the parameter's first axis is the layers."""
        return "{}" in self.tensors[0]

    @property
    def index_axes(self) -> int:
        """Leading axes of the parameter that choose the tensor."""
        return self.stacked + (len(self.tensors) > 1)

    def places(self, shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Torch name and index into the parameter of `shape`, for every tensor that holds a part of it."""
        layers = range(shape[0]) if self.stacked else (None,)
        for layer, (which, name) in itertools.product(layers, enumerate(self.tensors)):
            index = () if layer is None else (layer,)
            yield name.format(layer), index + ((which,) if len(self.tensors) > 1 else ())


def rule(name: str) -> Rule:
    """The rule of one parameter.

    Raises:
        KeyError: the torch model has no such parameter (a LoRA adapter, or no parameter of a Pi0 at all).
    """
    return RULES[name]


def _linear(jax: str, torch: str) -> dict[str, Rule]:
    return {f"{jax}/kernel": Rule((f"{torch}.weight",), LINEAR), f"{jax}/bias": Rule((f"{torch}.bias",), SAME)}


def _layer_norm(jax: str, torch: str) -> dict[str, Rule]:
    return {f"{jax}/scale": Rule((f"{torch}.weight",), SAME), f"{jax}/bias": Rule((f"{torch}.bias",), SAME)}


def _vision() -> dict[str, Rule]:
    jax, torch = "Transformer/encoderblock", f"{_VISION}.encoder.layers.{{}}"
    attention = f"{jax}/MultiHeadDotProductAttention_0"
    rules = {
        "embedding/kernel": Rule((f"{_VISION}.embeddings.patch_embedding.weight",), PATCHES),
        "embedding/bias": Rule((f"{_VISION}.embeddings.patch_embedding.bias",), SAME),
        "pos_embedding": Rule((f"{_VISION}.embeddings.position_embedding.weight",), POSITIONS),
        f"{attention}/out/kernel": Rule((f"{torch}.self_attn.out_proj.weight",), HEADS_OUT),
        f"{attention}/out/bias": Rule((f"{torch}.self_attn.out_proj.bias",), SAME),
    }
    for role in ("query", "key", "value"):
        projection = f"{torch}.self_attn.{role[0]}_proj"
        rules[f"{attention}/{role}/kernel"] = Rule((f"{projection}.weight",), HEADS_LAST)
        rules[f"{attention}/{role}/bias"] = Rule((f"{projection}.bias",), HEADS_BIAS)
    for i in (0, 1):
        rules |= _layer_norm(f"{jax}/LayerNorm_{i}", f"{torch}.layer_norm{i + 1}")
        rules |= _linear(f"{jax}/MlpBlock_0/Dense_{i}", f"{torch}.mlp.fc{i + 1}")
    rules |= _layer_norm("Transformer/encoder_norm", f"{_VISION}.post_layernorm")
    rules |= _linear("head", f"{_ROOT}.paligemma.model.multi_modal_projector.linear")
    return {f"PaliGemma/img/{name}": value for name, value in rules.items()}


def _expert(suffix: str, torch: str) -> dict[str, Rule]:
    """`suffix` marks the expert's modules in JAX. A norm has a plain scale or, in pi0.5, a projection of the time."""
    layer, attn, mlp = f"{torch}.layers.{{}}", "layers/attn", f"layers/mlp{suffix}"
    rules = {
        f"{attn}/q_einsum{suffix}/w": Rule((f"{layer}.self_attn.q_proj.weight",), HEADS_FIRST),
        f"{attn}/kv_einsum{suffix}/w": Rule(tuple(f"{layer}.self_attn.{r}_proj.weight" for r in "kv"), HEADS_FIRST),
        f"{attn}/attn_vec_einsum{suffix}/w": Rule((f"{layer}.self_attn.o_proj.weight",), HEADS_OUT),
        f"{mlp}/gating_einsum": Rule(tuple(f"{layer}.mlp.{r}_proj.weight" for r in ("gate", "up")), LINEAR),
        f"{mlp}/linear": Rule((f"{layer}.mlp.down_proj.weight",), LINEAR),
    }
    for jax, name in (
        (f"layers/pre_attention_norm{suffix}", f"{layer}.input_layernorm"),
        (f"layers/pre_ffw_norm{suffix}", f"{layer}.post_attention_layernorm"),
        (f"final_norm{suffix}", f"{torch}.norm"),
    ):
        rules[f"{jax}/scale"] = Rule((f"{name}.weight",), SAME)
        rules |= _linear(f"{jax}/Dense_0", f"{name}.dense")
    return {f"PaliGemma/llm/{name}": value for name, value in rules.items()}


_PROJECTIONS = (
    "action_in_proj", "action_out_proj", "state_proj",
    "action_time_mlp_in", "action_time_mlp_out", "time_mlp_in", "time_mlp_out",
)  # fmt: skip

RULES = {
    **_vision(),
    "PaliGemma/llm/embedder/input_embedding": Rule((EMBEDDING,), SAME),
    **_expert("", _VLM),
    **_expert("_1", _EXPERT),
    **{name: value for module in _PROJECTIONS for name, value in _linear(module, module).items()},
}
"""JAX name -> rule, for every parameter that some Pi0 or Pi0.5 without adapters has."""


def layer_count(rule: Rule, names: set[str]) -> int:
    """How many layers of `rule` are among the torch `names`, counted by the highest number."""
    pattern = re.compile(re.escape(rule.tensors[0]).replace(r"\{\}", r"(\d+)"))
    return 1 + max((int(m.group(1)) for name in names if (m := pattern.fullmatch(name))), default=-1)
