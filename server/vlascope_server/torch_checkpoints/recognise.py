"""Decides whether `inspect` was given one of the Pi0 formats or another PyTorch checkpoint.

In this order:

1. a URL or a preset's name: Pi0;
2. a safetensors file by its name, or the index of several: Pi0 if a tensor's name holds `paligemma_with_expert`, as in
   openpi's PyTorch model and in LeRobot's; else PyTorch. One that torch.save wrote under such a name is PyTorch too;
3. any other file: PyTorch;
4. a folder with `params/` or Orbax's `_METADATA`, or one that is called `params`: Pi0;
5. a folder with `model.safetensors` or its index: by the names, as in 2;
6. a folder with one file whose ending is that of weights (`.ckpt`, `.pt`, `.safetensors`, …), in it or in its
   `checkpoints/`: what that file is; with several of them, or with the leavings of a download: an error that says so;
7. whatever is not there: PyTorch where its ending is that of weights, else Pi0.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlascope_base.files import local

from vlascope_server.torch_checkpoints.archive import form_of
from vlascope_server.torch_checkpoints.downloads import (
    SUFFIXES,
    checkpoint_files,
    refuse_unfinished,
    unfinished_in,
    what_is_in,
)
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError

_PI0 = "paligemma_with_expert"
_SAFETENSORS = (".safetensors", ".safetensors.index.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
"""One of several files, which their index names."""
_MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")


def torch_file(location: str) -> Path | None:
    """The PyTorch checkpoint that a location stands for; None where it stands for one of the Pi0 formats.

    Raises:
        TorchCheckpointError: a folder with several PyTorch checkpoints, or an unfinished download.
        CheckpointError: a safetensors file is damaged.
    """
    if "://" in location:
        return None
    path = local(location)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return path if not path.name.endswith(_SAFETENSORS) or not _is_pi0(path) else None
    return path if path.suffix in SUFFIXES and path.suffix != ".safetensors" else None


def _in_folder(folder: Path) -> Path | None:
    if (folder / "params").is_dir() or (folder / "_METADATA").is_file() or folder.name == "params":
        return None
    for name in _MODEL_FILES:
        if (folder / name).is_file():
            return None if _is_pi0(folder / name) else folder / name
    files = checkpoint_files(folder)
    if len(files) == 1 and not _SHARD.search(files[0].name):
        return None if files[0].suffix == ".safetensors" and _is_pi0(files[0]) else files[0]
    if any(file.suffix != ".safetensors" for file in files) or (not files and unfinished_in(folder)):
        raise TorchCheckpointError(f"{folder}: a folder; {what_is_in(folder)}")
    return None


def _is_pi0(path: Path) -> bool:
    from vlascope_server.checkpoints.tensor_files import TensorFiles

    refuse_unfinished(path)
    if path.suffix == ".safetensors" and form_of(path) in ("zip", "pickle"):
        return False
    return any(_PI0 in name for name in TensorFiles(path).shapes)
