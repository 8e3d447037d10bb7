"""Which assets LIBERO takes its models from: a folder that was asked for, official ones on disk, or stand-ins."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

from vlascope_sim.assets.check import failures
from vlascope_sim.assets.needs import missing_files
from vlascope_sim.assets.standin import standin_files, standin_hash, write_standins
from vlascope_sim.environment.package import libero_folder
from vlascope_sim.errors import SimulationError

_SCENES = "scenes"


@dataclasses.dataclass(frozen=True)
class AssetSet:
    """A folder of LIBERO assets.

    Attributes:
        path: the folder.
        kind: `stand-in` where it holds what vlascope generates, else `official`.
        hash: 16 hexadecimal digits; of every path and content of stand-ins, of every path and size otherwise. Hidden folders,
            where the hub's client keeps its notes, do not count.
    """

    path: Path
    kind: Literal["official", "stand-in"]
    hash: str

    def missing(self, suite: str) -> list[str]:
        """Files that the suite's object classes and arenas ask for and the folder lacks, from its root, sorted.

        Imports LIBERO at the first call (seconds).

        Raises:
            SimulationError: there is no such suite.
        """
        return missing_files(suite, self.path)

    def complete(self, suite: str) -> bool:
        """Whether no file is missing and, of stand-ins, every task of the suite passed the check of this very set."""
        return not self.missing(suite) and (self.kind == "official" or not failures(suite, self.hash))


def resolve_assets(folder: Path | None = None) -> AssetSet:
    """The assets to use: `folder` where given, else official ones where LIBERO looks for them, else stand-ins.

    Raises:
        SimulationError: `folder` holds no LIBERO assets.
        OSError: stand-ins cannot be written to the cache.
    """
    if folder is not None:
        folder = Path(folder)
        if not (folder / _SCENES).is_dir():
            raise SimulationError(
                f"assets {folder}: no folder {_SCENES!r} in it; name the root of a set of LIBERO assets"
            )
        return _described(folder)
    for place in official_places():
        if (place / _SCENES).is_dir():
            return _described(place)
    return AssetSet(write_standins(), "stand-in", standin_hash())


def official_places() -> tuple[Path, Path]:
    """Where hf-libero looks for its assets: its package, and the folder it downloads to."""
    return libero_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"


def _described(folder: Path) -> AssetSet:
    folder = folder.resolve()
    names = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    files = {name.as_posix(): folder / name for name in names if not any(part[0] == "." for part in name.parts[:-1])}
    ours = standin_files()
    if files.keys() == ours.keys() and all(file.read_bytes() == ours[name] for name, file in files.items()):
        return AssetSet(folder, "stand-in", standin_hash())
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
    return AssetSet(folder, "official", digest.hexdigest()[:16])
