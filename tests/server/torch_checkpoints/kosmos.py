"""The tensors of a RoboVLMs policy on Kosmos-2 by name, from the sizes of the architecture, with or without LoRA.

Sizes of the published Kosmos-2 (microsoft/kosmos-2-patch14-224): text of 24 layers, width 2048, 65,037 tokens; vision of 24
layers, width 1024, 224 pixels in patches of 14.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.server.torch_checkpoints.files import Tensor

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in "kvq":
        yield from _linear(f"{name}.{part}_proj", width, width)
    yield from _linear(f"{name}.out_proj", width, width)


def backbone(text: dict[str, int], vision: dict[str, int], latents: int) -> Shapes:
    """Kosmos-2; keys of the sizes are those of transformers' configuration."""
    d, v = text["embed_dim"], vision["hidden_size"]

    def parts() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "text_model.model.embed_tokens.weight", (text["vocab_size"], d)
        for i in range(text["layers"]):
            layer = f"text_model.model.layers.{i}"
            yield from _attention(f"{layer}.self_attn", d)
            yield from _norm(f"{layer}.self_attn.inner_attn_ln", d)
            yield from _norm(f"{layer}.self_attn_layer_norm", d)
            yield from _linear(f"{layer}.ffn.fc1", d, text["ffn_dim"])
            yield from _linear(f"{layer}.ffn.fc2", text["ffn_dim"], d)
            yield from _norm(f"{layer}.ffn.ffn_layernorm", text["ffn_dim"])
            yield from _norm(f"{layer}.final_layer_norm", d)
        yield from _norm("text_model.model.layer_norm", d)
        yield "text_model.lm_head.weight", (text["vocab_size"], d)
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        root = "vision_model.model"
        yield f"{root}.embeddings.class_embedding", (v,)
        yield f"{root}.embeddings.patch_embedding.weight", (v, 3, vision["patch_size"], vision["patch_size"])
        yield f"{root}.embeddings.position_embedding.weight", (patches + 1, v)
        yield from _norm(f"{root}.pre_layrnorm", v)
        for i in range(vision["num_hidden_layers"]):
            layer = f"{root}.encoder.layers.{i}"
            yield from _attention(f"{layer}.self_attn", v)
            yield from _norm(f"{layer}.layer_norm1", v)
            yield from _linear(f"{layer}.mlp.fc1", v, vision["intermediate_size"])
            yield from _linear(f"{layer}.mlp.fc2", vision["intermediate_size"], v)
            yield from _norm(f"{layer}.layer_norm2", v)
        yield from _norm(f"{root}.post_layernorm", v)
        yield "image_to_text_projection.latent_query", (latents, d)
        yield from _linear("image_to_text_projection.dense", v, d)
        yield from _attention("image_to_text_projection.x_attn", d)

    return dict(parts())


def head(width: int, hidden: int, layers: int, mlp: list[int], branches: dict[str, int]) -> Shapes:
    """An LSTM and a perceptron for each branch."""
    found: Shapes = {}
    for i in range(layers):
        for kind, rows in (("ih", width if i == 0 else hidden), ("hh", hidden)):
            found[f"rnn.weight_{kind}_l{i}"] = (4 * hidden, rows)
            found[f"rnn.bias_{kind}_l{i}"] = (4 * hidden,)
    for branch, out in branches.items():
        sizes = [hidden, *mlp, out]
        for i, (into, to) in enumerate(itertools.pairwise(sizes)):
            found.update(_linear(f"{branch}.mlp.{2 * i}", into, to))
    return found


def plain(parts: Shapes, action_head: Shapes, width: int) -> dict[str, Tensor]:
    """The state dict of a policy without adapters; the language head is the embedding."""
    shapes = {
        "action_token": (width,),
        **{f"backbone.{name}": shape for name, shape in parts.items()},
        **{f"act_head.{name}": shape for name, shape in action_head.items()},
    }
    tied = {"backbone.text_model.lm_head.weight": "backbone.text_model.model.embed_tokens.weight"}
    keys = {name: str(number) for number, name in enumerate(shapes)}
    return {name: Tensor(keys[tied.get(name, name)], shape) for name, shape in shapes.items()}


def adapted(parts: Shapes, action_head: Shapes, width: int, rank: int, targets: list[str]) -> dict[str, Tensor]:
    """With LoRA on the targets, and the backbone under both of its names, as Lightning saves it."""
    shapes: Shapes = {}
    for name, shape in parts.items():
        module, _, kind = name.rpartition(".")
        if module.rpartition(".")[2] not in targets:
            shapes[name] = shape
            continue
        shapes[f"{module}.base_layer.{kind}"] = shape
        if kind == "weight":
            shapes[f"{module}.lora_A.default.weight"] = (rank, shape[1])
            shapes[f"{module}.lora_B.default.weight"] = (shape[0], rank)
    keys = {name: str(number) for number, name in enumerate(shapes)}
    keys["text_model.lm_head.weight"] = keys["text_model.model.embed_tokens.weight"]
    weights = {"model.action_token": Tensor("token", (width,))}
    weights |= {f"model.backbone.{name}": Tensor(keys[name], shape) for name, shape in shapes.items()}
    weights |= {f"model.act_head.{name}": Tensor(f"head{name}", shape) for name, shape in action_head.items()}
    weights |= {f"model.model.base_model.model.{name}": Tensor(keys[name], shape) for name, shape in shapes.items()}
    return weights


FULL_TEXT = {"vocab_size": 65_037, "embed_dim": 2048, "layers": 24, "ffn_dim": 8192}
FULL_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 224,
    "patch_size": 14,
}
FULL_HEAD = head(2048, 512, 4, [1024, 512, 256], {"velocities": 20})
