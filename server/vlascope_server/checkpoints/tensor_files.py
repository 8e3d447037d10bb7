"""The tensors of one safetensors file, or of several that an index names. What they mean, `torch_format.py` knows.

The index is Hugging Face's: `model.safetensors.index.json` holds a map `weight_map` from a tensor's name to the file beside
it that holds the tensor.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import safetensors

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.json_file import JsonError, read_json, shown

_SUFFIX = ".safetensors"


class TensorFiles:
    """Tensors by name; opening reads the files' headers only.

    Args:
        path: a safetensors file, or an index of several.

    Attributes:
        shapes: name -> shape.
        codes: name -> dtype as the format spells it, such as `BF16`.

    Raises:
        CheckpointError: a file is missing, damaged, or does not hold what the index says.
    """

    def __init__(self, path: Path):
        self._files: dict[str, safetensors.safe_open]
        self._paths: dict[str, Path]
        self._mapped: dict[Path, tuple[dict[str, tuple[int, int]], np.ndarray]] = {}
        """Of the files that were looked at: where each tensor lies, and all bytes."""
        if path.suffix == ".json":
            places = _read_index(path)
            files = {name: _open(path.with_name(name)) for name in sorted(set(places.values()))}
            there = {name: set(file.keys()) for name, file in files.items()}
            for tensor, name in places.items():
                if tensor not in there[name]:
                    raise CheckpointError(
                        f"{path.with_name(name)}: tensor {tensor}: missing, and {path.name} says that it is here",
                        "copy both again from one place",
                    )
            self._files = {tensor: files[name] for tensor, name in places.items()}
            self._paths = {tensor: path.with_name(name) for tensor, name in places.items()}
        else:
            file = _open(path)
            self._files = dict.fromkeys(file.keys(), file)
            self._paths = dict.fromkeys(file.keys(), path)
        slices = {name: file.get_slice(name) for name, file in self._files.items()}
        self.shapes = {name: tuple(entry.get_shape()) for name, entry in slices.items()}
        self.codes: dict[str, str] = {name: entry.get_dtype() for name, entry in slices.items()}

    @property
    def paths(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted(set(self._paths.values()))

    def read(self, name: str) -> np.ndarray:
        """One tensor as it is stored."""
        return self._files[name].get_tensor(name)

    def view(self, name: str, dtype: np.dtype) -> np.ndarray:
        """One tensor where it lies in its file: a read-only view, whose bytes are read when they are looked at."""
        path = self._paths[name]
        if path not in self._mapped:
            self._mapped[path] = _map(path)
        places, mapped = self._mapped[path]
        start, stop = places[name]
        return mapped[start:stop].view(dtype).reshape(self.shapes[name])


def _map(path: Path) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    """Where each tensor lies in a file that `safetensors` has found whole, and the file's bytes.

    The package gives copies only. Its format is eight bytes with the header's length, the header in JSON, then the tensors,
    whose `data_offsets` count from the header's end.
    """
    mapped = np.memmap(path, np.uint8, mode="r")
    behind = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:behind].tobytes())
    header.pop("__metadata__", None)
    places = {tensor: entry["data_offsets"] for tensor, entry in header.items()}
    return {tensor: (behind + start, behind + stop) for tensor, (start, stop) in places.items()}, mapped


def check_plain_name(path: Path, field: str, name: str) -> None:
    """Raises `CheckpointError` where a name that `path` gives is not that of a safetensors file beside it."""
    if not name.endswith(_SUFFIX) or name == _SUFFIX or any(mark in name for mark in ("/", "\\", "\0")):
        raise CheckpointError(
            f"{path}: {field}: expected the name of a {_SUFFIX} file in the same folder, found {shown(name)}"
        )


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> name of its file; every file is there."""
    try:
        places = read_json(path).map("weight_map")
        if places is None or not list(places):
            raise JsonError(f"{path}: weight_map: expected a map from tensors to files, found none")
        names = {tensor: places.text(tensor) or "" for tensor in places}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except JsonError as error:
        raise CheckpointError(str(error), "copy it again") from None
    for tensor, name in names.items():
        check_plain_name(path, f"weight_map.{tensor}", name)
    for name, count in sorted(Counter(names.values()).items()):
        if not path.with_name(name).is_file():
            raise CheckpointError(
                f"{path.with_name(name)}: missing; {path.name} says that it holds {count} of {len(names)} tensors",
                "copy it too",
            )
    return names


def _open(path: Path) -> safetensors.safe_open:
    try:
        # the package knows numpy's bfloat16 from ml_dtypes, which is imported by then
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a whole safetensors file; it is damaged or cut off: copy it again ({error})"
        ) from error
