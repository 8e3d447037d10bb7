"""Reads and writes the parameters of PyTorch checkpoints, the reference's and those of LeRobot's port. Needs no torch.

Names and axis orders come from `torch_names`, bytes from `tensor_files`; here is which tensors must be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vlascope_server.checkpoints import torch_names as names
from vlascope_server.checkpoints.boxes import Box
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.tensor_files import TensorFiles
from vlascope_server.checkpoints.weights import dtype_of, empty
from vlascope_server.model import GemmaConfig, Pi0Config, VisionConfig
from vlascope_server.model.parameters import parameter_shapes

_UNUSED = {names.LM_HEAD, names.EXPERT_LM_HEAD}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}

_SIGLIP_HEADS = {32: 2, 192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
"""Width -> attention heads of the published SigLIP sizes (big_vision's vision transformer)."""


class TorchWeights:
    """The parameters in one safetensors file or in several with an index; opening reads only headers.

    Args:
        path: the file, or the index.
        vision_heads: attention heads of the image encoder, which merged axes hide; None takes the published encoder of
            this width.
        kv_heads: the same of the experts' keys and values; None takes 1, as all of the reference's models have.

    Raises:
        CheckpointError: no safetensors file, or one of another model; the first tensor that does not fit is named.
    """

    def __init__(self, path: Path, *, vision_heads: int | None = None, kv_heads: int | None = None):
        self._path, self._files = path, TensorFiles(path)
        self._stored: dict[str, str] = {}
        """The reference's name -> name in the file."""
        for stored in self._files.shapes:
            if stored.startswith(names.LEROBOT_NORMALISERS):
                continue
            name = names.reference_name(stored)
            if other := self._stored.get(name):
                raise CheckpointError(
                    f"{path}: tensors {other} and {stored}: both are {name}; expected it once: this was put together from"
                    " two checkpoints"
                )
            self._stored[name] = stored
        self._tensors = {name: self._files.shapes[stored] for name, stored in self._stored.items()}
        self._embedding = names.EMBEDDING if names.EMBEDDING in self._tensors else names.LM_HEAD
        config = self._config(vision_heads, kv_heads)
        self.shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(config)
        self._check()
        self.dtypes = {name: self._dtype(name) for name in self.shapes}

    def read(self, name: str, dtype: str | None = None) -> np.ndarray:
        """One parameter in `dtype`, or as stored; holds one layer besides the result."""
        rule, shape = names.rule(name), self.shapes[name]
        result = empty(shape, dtype or self.dtypes[name])
        for tensor, index in rule.places(shape):
            stored = self._files.read(self._stored[self._tied(tensor)])
            result[index] = rule.axes.to_jax(stored, shape[rule.index_axes :])
        return result

    parts_cost_the_whole = False

    def pieces(self, name: str) -> list[Box]:
        """The parts of one parameter that are tensors of their own: a layer each, where it has layers."""
        shape, found = self.shapes[name], []
        for _, index in names.rule(name).places(shape):
            rest = (slice(0, size) for size in shape[len(index) :])
            found.append((*(slice(i, i + 1) for i in index), *rest))
        return found

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of one tensor: a view of the file, which reads nothing by itself."""
        rule, shape = names.rule(name), self.shapes[name]
        wanted = tuple(axis.start for axis in box[: rule.index_axes])
        tensor = next(tensor for tensor, index in rule.places(shape) if index == wanted)
        stored = self._stored[self._tied(tensor)]
        view = self._files.view(stored, dtype_of(_DTYPES[self._files.codes[stored]]))
        part = rule.axes.to_jax(view, shape[rule.index_axes :])
        return part[(None,) * rule.index_axes + box[rule.index_axes :]]

    def normalisers(self) -> dict[str, np.ndarray]:
        """The statistics that LeRobot before 0.4 kept among the parameters: tensor -> numbers; empty in other files."""
        found = [name for name in self._files.shapes if name.startswith(names.LEROBOT_NORMALISERS)]
        return {name: self._files.read(name) for name in found}

    def _tied(self, tensor: str) -> str:
        return self._embedding if tensor == names.EMBEDDING else tensor

    def _dtype(self, name: str) -> str:
        """What holds all layers of a parameter exactly: their own dtype, or float32 where they differ."""
        found = set()
        for tensor, _ in names.rule(name).places(self.shapes[name]):
            stored = self._stored[self._tied(tensor)]
            code = self._files.codes[stored]
            if code not in _DTYPES:
                raise CheckpointError(f"{self._path}: tensor {stored}: expected one of {list(_DTYPES)}, found {code}")
            found.add(_DTYPES[code])
        return found.pop() if len(found) == 1 else "float32"

    def _shape(self, tensor: str, ndim: int) -> tuple[int, ...]:
        shape = self._tensors.get(self._tied(tensor))
        if shape is None:
            raise CheckpointError(
                f"{self._path}: tensor {tensor}: missing; expected the reference's Pi0 or Pi0.5, or LeRobot's port of them;"
                f" found {len(self._tensors)} tensors such as {min(self._stored.values(), default='none')}: this is another"
                " model"
            )
        if len(shape) != ndim:
            raise CheckpointError(f"{self._path}: tensor {tensor}: expected {ndim} axes, found shape {shape}")
        return shape

    def _config(self, vision_heads: int | None, kv_heads: int | None) -> Pi0Config:
        width, _, patch, _ = self._shape(_first("PaliGemma/img/embedding/kernel"), 4)
        tokens, _ = self._shape(_first("PaliGemma/img/pos_embedding"), 2)
        if vision_heads is None and width not in _SIGLIP_HEADS:
            raise CheckpointError(
                f"{self._path}: an image encoder of width {width} is none of the published ones"
                f" ({list(_SIGLIP_HEADS)}), and the file does not tell its attention heads: put a vlascope.json beside it,"
                ' such as {"schema": 1, "vision_heads": 4}'
            )
        block = "PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"
        vision = VisionConfig(
            width=width,
            depth=names.layer_count(names.rule(block), set(self._tensors)),
            mlp_dim=self._shape(_first(block), 2)[0],
            num_heads=vision_heads or _SIGLIP_HEADS[width],
            patch_size=patch,
            image_size=round(tokens**0.5) * patch,
        )
        try:
            return Pi0Config(
                vision=vision,
                vlm=self._gemma("", kv_heads or 1),
                action=self._gemma("_1", kv_heads or 1),
                pi05=_first("time_mlp_in/kernel") in self._tensors,
                vocabulary=self._shape(names.EMBEDDING, 2)[0],
                action_dim=self._shape(_first("action_in_proj/kernel"), 2)[1],
            )
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{self._path}: {error}: this is another model") from error

    def _gemma(self, suffix: str, kv_heads: int) -> GemmaConfig:
        attn, mlp = "PaliGemma/llm/layers/attn", f"PaliGemma/llm/layers/mlp{suffix}/linear"
        queries, width = self._shape(_first(f"{attn}/q_einsum{suffix}/w"), 2)
        head_dim = self._shape(_first(f"{attn}/kv_einsum{suffix}/w"), 2)[0] // kv_heads
        return GemmaConfig(
            width=width,
            depth=names.layer_count(names.rule(mlp), set(self._tensors)),
            mlp_dim=self._shape(_first(mlp), 2)[1],
            num_heads=queries // max(1, head_dim),
            num_kv_heads=kv_heads,
            head_dim=head_dim,
        )

    def _check(self) -> None:
        """Every tensor is there, of the shape that the architecture gives it, and none besides."""
        known = set(_UNUSED)
        for name, shape in self.shapes.items():
            rule = names.rule(name)
            # a view of one byte: only its shape is wanted
            part = np.broadcast_to(np.zeros((), np.uint8), shape[rule.index_axes :])
            expected = rule.axes.to_torch(part).shape
            for tensor, _ in rule.places(shape):
                known.add(tensor)
                found = self._shape(tensor, len(expected))
                if found != expected:
                    raise CheckpointError(f"{self._path}: tensor {tensor}: expected shape {expected}, found {found}")
        unknown = sorted(set(self._tensors) - known)
        if unknown:
            raise CheckpointError(
                f"{self._path}: tensor {unknown[0]}: unknown to the reference's Pi0 and Pi0.5 ({len(unknown)} such in"
                " all): this is another model, or one with adapters that were not merged"
            )


def write_torch(path: Path, params: Iterable[tuple[str, np.ndarray]], prefix: str = "") -> None:
    """Writes `model.safetensors` as the reference's strict loader wants it, or LeRobot's.

    The text embedding is stored as the tied `lm_head`, and the action expert's own, which nothing uses, as zeros.

    Args:
        path: the file; replaced when there.
        params: name and array, one after the other, so that a caller need not hold both forms of all parameters.
        prefix: of every tensor's name: none for the reference, `LEROBOT_PREFIX` for LeRobot.

    Raises:
        CheckpointError: a parameter has no torch form.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, array in params:
        check_has_torch_form([name])
        rule = names.rule(name)
        for tensor, index in rule.places(array.shape):
            tensors[tensor] = np.ascontiguousarray(rule.axes.to_torch(array[index]))
    tensors[names.LM_HEAD] = tensors.pop(names.EMBEDDING)
    width = tensors[_first("action_in_proj/kernel")].shape[0]
    embedding = tensors[names.LM_HEAD]
    tensors[names.EXPERT_LM_HEAD] = np.zeros((embedding.shape[0], width), embedding.dtype)
    metadata = {f"{prefix}{names.EMBEDDING}": f"{prefix}{names.LM_HEAD}"}
    if prefix:
        metadata["format"] = "pt"  # which transformers and LeRobot ask for
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, path, metadata=metadata)


def check_has_torch_form(params: Iterable[str]) -> None:
    """Raises `CheckpointError` at the first parameter name that the torch model does not have."""
    for name in params:
        if "lora_" in name:
            raise CheckpointError(
                f"parameter {name}: the PyTorch format has no LoRA adapters; keep this checkpoint as orbax"
            )
        if name not in names.RULES:
            raise CheckpointError(f"parameter {name}: unknown to the PyTorch format; expected a Pi0 or Pi0.5")


def _first(name: str) -> str:
    """Torch name of the first tensor of a parameter."""
    return names.rule(name).tensors[0].format(0)
