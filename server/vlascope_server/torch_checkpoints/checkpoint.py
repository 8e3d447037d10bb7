"""Opens a PyTorch checkpoint: what is in it, which of it are the weights, and any tensor as a view of the file.

    checkpoint = open_torch_checkpoint("epoch=9.ckpt")
    checkpoint.tensors["model.action_token"].shape
    checkpoint.array("model.action_token")

No pickle is run, and torch is not needed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from vlascope_base.files import local

from vlascope_server.torch_checkpoints.archive import ZIP_MAGIC, Archive, form_of, read_archive
from vlascope_server.torch_checkpoints.downloads import refuse_unfinished
from vlascope_server.torch_checkpoints.errors import RefusedPickleError, TorchCheckpointError
from vlascope_server.torch_checkpoints.layout import find_weights
from vlascope_server.torch_checkpoints.tensors import Storage, TorchTensor, contiguous_strides, numpy_dtype

if TYPE_CHECKING:
    from vlascope_server.checkpoints.tensor_files import TensorFiles

SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""safetensors' spelling of a dtype -> numpy's and ml_dtypes'."""
_TENSOR_IN_PICKLE = "torch.storage._load_from_bytes"


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """A PyTorch checkpoint of which no tensor has been read.

    Attributes:
        path: the file, or the index of several.
        bytes: of the file, or of all of them.
        kind: `torch zip`, `torch legacy`, `pickle` or `safetensors`.
        content: all that the pickle holds: plain values, `TorchTensor` and `Placeholder`; None for safetensors.
        layout: `lightning`, `nested:KEY` or `flat`.
        place: keys that lead from the content to the weights; empty for a flat checkpoint.
        tensors: the weights: name, as the file spells it -> tensor. In the file's order.
        names: every class or function that the pickle names -> `known`, `harmless`, `unknown` or `refused`.
        calls: refused name -> the call that the pickle would have made; empty unless the file was opened with `trust`.
    """

    path: Path
    bytes: int
    kind: str
    content: Any
    layout: str
    place: tuple[str, ...]
    tensors: Mapping[str, TorchTensor]
    names: Mapping[str, str]
    calls: Mapping[str, str]
    _offsets: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    _little_endian: bool = True
    _files: TensorFiles | None = dataclasses.field(default=None, repr=False)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Full names of the classes that are not known here; their values are placeholders."""
        return tuple(name for name, verdict in self.names.items() if verdict == "unknown")

    def array(self, name: str) -> np.ndarray:
        """One tensor of the weights where it lies in its file: a read-only view, whose bytes are read when they are looked at.

        Raises:
            TorchCheckpointError: there is no tensor of this name, or the file is of a machine with another order of bytes.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise TorchCheckpointError(f"{self.path}: tensor {name}: missing; there are {len(self.tensors)} others")
        if self._files is not None:
            return self._files.view(name, numpy_dtype(tensor.dtype))
        return self.view(tensor)

    def view(self, tensor: TorchTensor) -> np.ndarray:
        """A tensor that is anywhere in `content`, such as one of the optimiser's, as `array` gives those of the weights.

        Raises:
            TorchCheckpointError: the file is of a machine with another order of bytes.
        """
        if not self._little_endian:
            raise TorchCheckpointError(
                f"{self.path}: written on a big-endian machine: load it with torch and save it again"
            )
        dtype = numpy_dtype(tensor.dtype)
        if not tensor.elements:
            return np.empty(tensor.shape, dtype)
        start, stop = (self._offsets[tensor.storage.key] + byte for byte in tensor.span)
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        return np.ndarray(tensor.shape, dtype, self._mapped[start:stop], strides=strides)

    @functools.cached_property
    def _mapped(self) -> np.ndarray:
        return np.asarray(np.memmap(self.path, np.uint8, mode="r"))


def open_torch_checkpoint(path: str | Path, *, trust: bool = False) -> TorchCheckpoint:
    """Opens a file that torch.save or safetensors wrote; reads its directory and its pickle, and no tensor.

    Args:
        path: the file; of safetensors in several files, the index.
        trust: read a file whose pickle would call a function that no checkpoint needs. The call becomes a placeholder, and is
            listed in `calls`; it is not made, whoever is trusted.

    Raises:
        RefusedPickleError: the pickle would call such a function, and `trust` is false.
        TorchCheckpointError: nothing there, an unfinished download, damaged, or no checkpoint.
    """
    path = local(path)
    refuse_unfinished(path)
    if path.name.endswith(".safetensors.index.json"):
        return _open_safetensors(path)
    if path.suffix == ".json":
        raise TorchCheckpointError(f"{path}: holds no weights; expected a file that does: name one that lies beside it")
    form = form_of(path)
    # a damaged file is what its name says
    if form == "safetensors" or (form is None and path.suffix == ".safetensors"):
        return _open_safetensors(path)
    if form is None:
        with path.open("rb") as file:
            begins = file.read(len(ZIP_MAGIC))
        raise TorchCheckpointError(
            f"{path}: expected a file that torch.save or safetensors wrote, found one that begins with {begins!r}"
        )
    archive = read_archive(path)
    if archive.kind == "pickle" and set(archive.calls) == {_TENSOR_IN_PICKLE}:
        raise TorchCheckpointError(
            f"{path}: tensors that pickle.dump wrote, each as a pickle inside of the pickle ({_TENSOR_IN_PICKLE}); expected a"
            " file that torch.save wrote: if you know who wrote it, load it with pickle and torch, and save it with torch.save"
        )
    if archive.calls and not trust:
        raise RefusedPickleError(_refusal(path, archive))
    layout, place, tensors = find_weights(path, archive.content)
    return TorchCheckpoint(
        path, path.stat().st_size, archive.kind, archive.content, layout, place, tensors, archive.names, archive.calls,
        archive.offsets, archive.little_endian,
    )  # fmt: skip


def _refusal(path: Path, archive: Archive) -> str:
    # what is called comes first; a name that is only handed on has no arguments here
    made = [f"{name}{call}" for name, call in sorted(archive.calls.items(), key=lambda item: not item[1])]
    more = f" and {len(made) - 3} more" if len(made) > 3 else ""
    called = [bool(call) for call in archive.calls.values()]
    does = "would call" if all(called) else "would call or names" if any(called) else "names"
    return (
        f"{path}: refused: its pickle {does} {', '.join(made[:3])}{more}, which no checkpoint needs, and which"
        " torch.load may run; nothing"
        " was run here. Do not load this file with torch.load unless you know who wrote it; to see what else is in"
        " it, add --trust:"
        " the call is not made even then"
    )


def _open_safetensors(path: Path) -> TorchCheckpoint:
    # imported late: its folder brings JAX, which no other file needs
    from vlascope_server.checkpoints.tensor_files import TensorFiles

    files = TensorFiles(path)
    if not files.shapes:
        raise TorchCheckpointError(
            f"{path}: a safetensors file of {path.stat().st_size:,} bytes without tensors; expected a checkpoint: download or"
            " save it again"
        )
    tensors: dict[str, TorchTensor] = {}
    for name, shape in files.shapes.items():
        code = files.codes[name]
        if code not in SAFETENSORS_DTYPES:
            raise TorchCheckpointError(
                f"{path}: tensor {name}: dtype {code}: unknown; known are {list(SAFETENSORS_DTYPES)}"
            )
        dtype = SAFETENSORS_DTYPES[code]
        tensor = TorchTensor(Storage(name, 0), dtype, shape, contiguous_strides(shape), 0)
        tensors[name] = dataclasses.replace(tensor, storage=Storage(name, tensor.bytes))
    size = sum(file.stat().st_size for file in files.paths)
    return TorchCheckpoint(path, size, "safetensors", None, "flat", (), tensors, {}, {}, _files=files)
