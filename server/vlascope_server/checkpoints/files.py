"""Finds what lies where in a checkpoint's folder, and refuses one that is not whole. Reads no weights."""

from __future__ import annotations

import dataclasses
import glob
import re
from pathlib import Path
from typing import Literal

from vlascope_base.files import below

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.presets import PRESETS, SEEDED

Kind = Literal["orbax", "safetensors", "lerobot"]
"""LeRobot's checkpoints are safetensors too, with LeRobot's names in them and LeRobot's files beside."""
TORCH_FILE = "model.safetensors"
TORCH_INDEX = "model.safetensors.index.json"
"""Of parameters that are spread over several files."""
TOKENIZER_FILE = "tokenizer.model"
"""A SentencePiece model beside the parameters; a checkpoint without one reads with PaliGemma's."""

NORM_STATS_FILE = "norm_stats.json"
BESIDE = "beside"
"""The asset id of a `norm_stats.json` beside the parameters, which has no folder to be named after."""

_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
_LEROBOT_FOLDER = "pretrained_model"
"""In which LeRobot's training keeps the policy, beside the optimiser's state."""
_ADAPTERS = "adapter_model.safetensors"
"""What PEFT saves: adapters without the model."""
_ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"
_DEEPEST, _MOST_SEEN = 12, 200_000
"""Folders inside of each other, and files, that are searched for what downloads left; a checkpoint has fewer."""
_UNFINISHED = (".partial", ".incomplete", ".part", ".gstmp", ".crdownload", ".aria2")
"""Endings of files that a download left behind: ours, openpi's, Hugging Face's, gsutil's, browsers', aria2's."""


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """One checkpoint on disk.

    Attributes:
        kind: the format of the parameters.
        root: the folder that holds assets, record and parameters.
        weights: the folder `params/`, the torch file, or the index of several.
    """

    kind: Literal["orbax", "safetensors"]
    root: Path
    weights: Path

    @property
    def assets(self) -> dict[str, Path]:
        """Asset id -> its `norm_stats.json`: those below `assets/`, and the one beside the parameters."""
        folder, beside = self.root / "assets", self.root / NORM_STATS_FILE
        found = {path.parent.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(NORM_STATS_FILE))}
        return {**({BESIDE: beside} if beside.is_file() else {}), **found}

    @property
    def tokenizer(self) -> Path | None:
        """The checkpoint's own tokenizer file, if it has one."""
        path = self.root / TOKENIZER_FILE
        return path if path.is_file() else None

    @property
    def train_state(self) -> Path:
        """Where the reference keeps the optimiser's state."""
        return self.root / "train_state"


def find_files(path: Path) -> CheckpointFiles:
    """The checkpoint at `path`: a step folder, its `params/`, a safetensors file, the index of several, or a folder that holds
    one step alone.

    Raises:
        CheckpointError: nothing there, unfinished, or not told which of several is meant.
    """
    _refuse_unfinished(path)
    if path.is_file():
        if _SHARD.fullmatch(path.name):
            raise CheckpointError(
                f"{path}: is one of several files that hold the parameters together; name {path.parent}, or the index in it"
            )
        if path.suffix != ".safetensors" and path.name != TORCH_INDEX:
            raise CheckpointError(f"{path}: expected a checkpoint folder or a .safetensors file, found another file")
        return CheckpointFiles("safetensors", path.parent, path)
    if (path / "_METADATA").is_file() or path.name == "params":
        return CheckpointFiles("orbax", path.parent if path.name == "params" else path, path)
    found = [name for name, there in _candidates(path).items() if there]
    if len(found) > 1:
        raise CheckpointError(f"{path}: holds both {' and '.join(found)}: name the one that is meant")
    if found:
        name = found[0]
        return CheckpointFiles("orbax" if name == "params/" else "safetensors", path, path / name.rstrip("/"))
    if len(steps := _steps(path)) == 1:
        return find_files(path / steps[0])
    raise CheckpointError(
        f"{path}: expected a checkpoint with params/, {TORCH_FILE} or {TORCH_INDEX}; found"
        f" {', '.join(sorted(p.name for p in path.iterdir())[:5]) or 'an empty folder'}; {_hint(path)}"
    )


def _candidates(path: Path) -> dict[str, bool]:
    return {
        "params/": (path / "params").is_dir(),
        TORCH_FILE: (path / TORCH_FILE).is_file(),
        TORCH_INDEX: (path / TORCH_INDEX).is_file(),
    }


def _steps(path: Path) -> list[str]:
    """Names of the folders of training steps, ascending."""
    return sorted((p.name for p in path.iterdir() if p.is_dir() and p.name.isdigit()), key=int)


def _hint(path: Path) -> str:
    if steps := _steps(path):
        return f"it holds the steps {', '.join(steps)}: name one"
    if (path / _LEROBOT_FOLDER).is_dir():
        return f"LeRobot's policy is in {path / _LEROBOT_FOLDER}: name that"
    if (path / _ADAPTERS).is_file():
        return f"{_ADAPTERS} holds adapters without their model: merge them with PEFT first"
    return "is this the right folder?"


def _refuse_unfinished(path: Path) -> None:
    if _ORBAX_UNFINISHED in path.name:
        raise CheckpointError(f"{path}: a save that never finished; use an earlier step, or save again")
    if not path.exists():
        begun = sorted(p.name for p in path.parent.glob(f"{glob.escape(path.name)}.*")) if path.parent.is_dir() else []
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
    for file in below(path, deepest=_DEEPEST, most=_MOST_SEEN) if path.is_dir() else ():
        if file.name.endswith(_UNFINISHED):
            raise CheckpointError(f"{file}: left by a download that never finished; repeat the download, or remove it")
        if _ORBAX_UNFINISHED in file.name and file.is_dir() and file.parent == path:
            raise CheckpointError(f"{file}: a save that never finished; use an earlier step, or save again")
