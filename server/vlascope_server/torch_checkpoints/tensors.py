"""What a checkpoint says of a tensor: its storage, and where in it the values lie. Reads no values.

A storage is a flat run of elements in the file. Several tensors may be views of one: two names of the same parameter, parts of
a larger matrix, a transpose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from vlascope_server.torch_checkpoints.classes import dtype_of_name, dtype_of_storage
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.pickles import Rebuild
from vlascope_server.torch_checkpoints.values import Global, Placeholder, shown

_MOST_AXES = 64
"""torch's own limit."""
_MOST_ELEMENTS = 1 << 48
"""Of one tensor; its storage may be smaller, where an axis was expanded."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of bytes in a checkpoint's file.

    Attributes:
        key: its name in the file; tensors with the same key share it.
        bytes: its length.
    """

    key: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class TypedStorage:
    """A storage as a pickle refers to it, with the dtype of its elements."""

    storage: Storage
    dtype: str


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor in a checkpoint.

    Attributes:
        storage: the bytes that it lies in.
        dtype: such as `float32`, `bfloat16`; names of numpy and ml_dtypes.
        shape: may be empty: a single value.
        strides: elements from one index of an axis to the next; 0 where an axis was expanded.
        offset: of the first value from the start of the storage, in elements.
    """

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return self.elements * self.itemsize

    @property
    def span(self) -> tuple[int, int]:
        """First byte in the storage that belongs to the tensor, and the one behind the last."""
        first = self.offset * self.itemsize
        if not self.elements:
            return first, first
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return first, (last + 1) * self.itemsize


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of a name as `TorchTensor.dtype` spells it."""
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(ml_dtypes, name))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose values lie in the order of its indices, the last axis running fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def tensor_in(
    typed: TypedStorage, offset: Any, shape: Any, strides: Any, dtype: str | None = None, what: str = "a tensor"
) -> TorchTensor:
    """A tensor, after its values are known to lie inside of its storage.

    Args:
        typed: the storage.
        offset: first value, in elements.
        shape: sizes of the axes.
        strides: in elements.
        dtype: of the values, where it is not the storage's.
        what: name for messages.

    Raises:
        TorchCheckpointError: something is no whole number of at least 0, or a value lies outside of the storage.
    """
    for name, numbers in (("shape", shape), ("strides", strides)):
        if not isinstance(numbers, tuple | list) or len(numbers) > _MOST_AXES or not all(map(_is_size, numbers)):
            wrong = (
                next((n for n in numbers if not _is_size(n)), None) if isinstance(numbers, tuple | list) else numbers
            )
            found = shown(wrong) if wrong is not None else f"{len(numbers):,}"
            raise TorchCheckpointError(
                f"{what}: {name}: expected at most {_MOST_AXES} whole numbers of at least 0, found {found}"
            )
    if len(shape) != len(strides):
        raise TorchCheckpointError(f"{what}: shape {tuple(shape)} and strides {tuple(strides)} are of unlike lengths")
    if not _is_size(offset):
        raise TorchCheckpointError(f"{what}: offset: expected a whole number of at least 0, found {shown(offset)}")
    tensor = TorchTensor(typed.storage, dtype or typed.dtype, tuple(shape), tuple(strides), offset)
    if tensor.elements > _MOST_ELEMENTS:
        raise TorchCheckpointError(f"{what}: shape {tensor.shape}: {tensor.elements:,} values: this is damaged")
    if tensor.span[1] > typed.storage.bytes and tensor.elements:
        raise TorchCheckpointError(
            f"{what}: offset {offset}, shape {tensor.shape} and strides {tensor.strides} of {tensor.dtype} end at byte"
            f" {tensor.span[1]:,} of storage {typed.storage.key}, which has {typed.storage.bytes:,}"
        )
    return tensor


def rebuild(name: str, args: tuple[Any, ...]) -> Any:
    """What one of torch's functions of `classes.REBUILDS` makes: a tensor, or a placeholder for one of an unread kind.

    Raises:
        TorchCheckpointError: the arguments are none that torch writes.
    """
    function = name.rpartition(".")[2]
    if function == "_rebuild_from_type_v2":
        # a tensor of a subclass, or one with attributes: function, class, its arguments, attributes
        match args:
            case (Global(inner), _, tuple() as inner_args, _) if inner != name:
                return (
                    _REBUILDS[inner.rpartition(".")[2]](inner, inner_args)
                    if _is_plain(inner)
                    else Placeholder(name, args)
                )
        raise TorchCheckpointError(f"a damaged pickle: {name} with {len(args)} arguments that torch does not write")
    return _REBUILDS[function](name, args)


def _of_storage(name: str, args: tuple[Any, ...]) -> Any:
    if len(args) < 4:
        raise TorchCheckpointError(f"a damaged pickle: {name} with {len(args)} arguments")
    typed, offset, shape, strides = args[:4]
    if not isinstance(typed, TypedStorage):
        return Placeholder(name, args)
    dtype = None
    if name.endswith("_v3"):
        named = args[6] if len(args) > 6 else None
        dtype = dtype_of_name(named.name) if isinstance(named, Global) else None
        if dtype is None:
            raise TorchCheckpointError(f"a tensor of dtype {shown(named)}: unknown")
    return tensor_in(typed, offset, shape, strides, dtype)


def _parameter(name: str, args: tuple[Any, ...]) -> Any:
    if not args:
        raise TorchCheckpointError(f"a damaged pickle: {name} without arguments")
    return args[0]


def _is_plain(name: str) -> bool:
    return name.startswith("torch._utils.") and name.rpartition(".")[2] in _REBUILDS


_REBUILDS: dict[str, Rebuild] = {
    **dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"), _of_storage),
    **dict.fromkeys(("_rebuild_parameter", "_rebuild_parameter_with_state"), _parameter),
}


def storage_reader(add: Callable[[str, int], Storage]) -> Callable[[Any], Any]:
    """What stands for torch's persistent ids.

    Args:
        add: key and bytes of a storage -> the storage, after the file has been asked whether it is there.

    Returns:
        a function for `read_pickle`; it gives `TypedStorage`.
    """

    def persistent(found: Any) -> Any:
        match found:
            case ("storage", Global(kind), str() as key, _, int() as elements, *rest) if elements >= 0:
                dtype = dtype_of_storage(kind)
                if dtype is None:
                    # quantised kinds: their tensors are placeholders too
                    return Placeholder(kind)
                if any(part is not None for part in rest):
                    raise TorchCheckpointError(
                        f"storage {key}: a view of another storage, as PyTorch before 0.4 wrote it: load it with torch and save"
                        " it again"
                    )
                return TypedStorage(add(key, elements * numpy_dtype(dtype).itemsize), dtype)
            case ("module", Global() as kind, *_):
                return kind
        raise TorchCheckpointError("a damaged pickle: a persistent id that torch does not write")

    return persistent


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_ELEMENTS
