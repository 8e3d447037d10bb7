"""Finds what lies where in a checkpoint's folder, and refuses one that is not whole. Reads no weights.

Knows nothing of what the files hold, nor of remote places: those were fetched before.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.presets import PRESETS, SEEDED

Kind = Literal["orbax", "safetensors"]
TORCH_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.model"
"""A SentencePiece model beside the parameters; a checkpoint without one reads with PaliGemma's."""

_ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"
_UNFINISHED = (".partial", ".incomplete", ".part", ".gstmp", ".crdownload", ".aria2")
"""Endings of files that a download left behind: ours, openpi's, Hugging Face's, gsutil's, browsers', aria2's."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One checkpoint on disk.

    Attributes:
        kind: the format.
        root: the folder that holds assets, record and parameters.
        weights: the folder `params/`, or the torch file.
    """

    kind: Kind
    root: Path
    weights: Path

    @property
    def assets(self) -> dict[str, Path]:
        """Asset id -> its `norm_stats.json`."""
        folder = self.root / "assets"
        return {path.parent.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("norm_stats.json"))}

    @property
    def tokenizer(self) -> Path | None:
        """The checkpoint's own tokenizer file, if it has one."""
        path = self.root / TOKENIZER_FILE
        return path if path.is_file() else None

    @property
    def train_state(self) -> Path:
        """Where the reference keeps the optimiser's state."""
        return self.root / "train_state"


def find_layout(path: Path) -> Layout:
    """The checkpoint at `path`: a step folder, its `params/`, or a safetensors file.

    Raises:
        CheckpointError: nothing there, unfinished, or not told which of several is meant.
    """
    _refuse_unfinished(path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: expected a checkpoint folder or a .safetensors file, found another file")
        return Layout("safetensors", path.parent, path)
    if (path / "_METADATA").is_file() or path.name == "params":
        return Layout("orbax", path.parent if path.name == "params" else path, path)
    params, torch = path / "params", path / TORCH_FILE
    if params.is_dir() and torch.is_file():
        raise CheckpointError(f"{path}: holds both params/ and {TORCH_FILE}: name the one that is meant")
    if torch.is_file():
        return Layout("safetensors", path, torch)
    if params.is_dir():
        return Layout("orbax", path, params)
    steps = sorted((p.name for p in path.iterdir() if p.is_dir() and p.name.isdigit()), key=int)
    hint = f"it holds the steps {', '.join(steps)}: name one" if steps else "is this the right folder?"
    raise CheckpointError(
        f"{path}: expected a checkpoint with params/ or {TORCH_FILE}; found"
        f" {', '.join(sorted(p.name for p in path.iterdir())[:5]) or 'an empty folder'}; {hint}"
    )


def _refuse_unfinished(path: Path) -> None:
    if _ORBAX_UNFINISHED in path.name:
        raise CheckpointError(f"{path}: a save that never finished; use an earlier step, or save again")
    if not path.exists():
        begun = sorted(p.name for p in path.parent.glob(f"{path.name}.*")) if path.parent.is_dir() else []
        if any(_ORBAX_UNFINISHED in name for name in begun):
            raise CheckpointError(
                f"{path}: missing, but {begun[0]} is beside it: a save that never finished; save again"
            )
        if begun:
            raise CheckpointError(
                f"{path}: missing, but {begun[0]} is beside it: a download that never finished; repeat it"
            )
        meant = f", or name a preset: {', '.join([*PRESETS, *SEEDED])}" if path.name == str(path) else ""
        raise CheckpointError(f"{path}: no such file or folder; expected a checkpoint: check the path{meant}")
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        if file.name.endswith(_UNFINISHED):
            raise CheckpointError(f"{file}: left by a download that never finished; repeat the download, or remove it")
        if _ORBAX_UNFINISHED in file.name and file.is_dir() and file.parent == path:
            raise CheckpointError(f"{file}: a save that never finished; use an earlier step, or save again")
