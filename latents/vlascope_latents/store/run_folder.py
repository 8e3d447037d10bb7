"""The folder of a run: which files and folders it has, what they may be called, who may read them, and what run.json says.

docs/store.md is the same for people.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlascope_base.files import replace_file
from vlascope_base.provenance import now, now_for_names, versions

from vlascope_latents.layout import ModelLayout
from vlascope_latents.names import why_no_name
from vlascope_latents.store.errors import SchemaVersionError, StoreError

SCHEMA_NAME = "vlascope-latents"
SCHEMA_VERSION = 3
"""Version 1 called the scene's own task `instruction`, whatever the policy was told; version 2 knew two experts by name."""
RUN_FILE = "run.json"
ZARR_FOLDER = "latents.zarr"
INDEX_FOLDER = "index"
TABLE_FILE = "episodes.parquet"
LOCK_FILE = "writer.lock"

_ID_CHARACTERS = 128
_PLUS = "+"
NO_CAMPAIGN = "none"
"""What selects the episodes that are part of no campaign; no campaign is called so."""

ReadableBy = Literal["owner", "group", "everyone"]
"""Who may read a folder that holds latents: its owner alone, unless somebody says otherwise.

Hidden states of a policy that sees a home or a workshop tell of it, as its pictures do.
"""
_MODES: dict[ReadableBy, int] = {"owner": 0o700, "group": 0o750, "everyone": 0o755}


def check_name(what: str, name: object) -> str:
    """`name`, if it can be a folder of the store.

    Raises:
        StoreError: it can't; `what` says whose name it is.
    """
    if (why := why_no_name(name)) is not None:
        raise StoreError(f"{what}: {name!r} {why}")
    assert isinstance(name, str), "nothing else is a name"  # noqa: S101 (for the type checker)
    return name


def check_episode_id(episode_id: object) -> str:
    """`episode_id`, if it can be one: a name, or `CAMPAIGN+NAME`.

    Raises:
        StoreError: it can't.
    """
    if not isinstance(episode_id, str):
        return check_name("episode", episode_id)
    parts = episode_id.split(_PLUS)
    if len(parts) > 2 or len(episode_id) > _ID_CHARACTERS:
        raise StoreError(
            f"episode: {episode_id!r} is no id: expected a name or CAMPAIGN+NAME, of at most {_ID_CHARACTERS} characters"
        )
    for part in parts:
        check_name("episode" if len(parts) == 1 else f"episode {episode_id!r}", part)
    if len(parts) == 2 and parts[0] == NO_CAMPAIGN:
        raise StoreError(
            f"episode: {episode_id!r}: no campaign can be called {NO_CAMPAIGN!r}, which selects the episodes of none: give it "
            "another name"
        )
    return episode_id


def split_id(episode_id: str) -> tuple[str | None, str]:
    """The campaign that an episode is part of, None where its id names none; and its name there."""
    campaign, plus, name = episode_id.partition(_PLUS)
    return (campaign, name) if plus else (None, episode_id)


def episode_folder(episode_id: str, attempt: int) -> str:
    """The folder of one attempt at an episode."""
    return episode_id if attempt == 1 else f"{episode_id}@{attempt}"


def split_folder(folder: str) -> tuple[str, int]:
    """The inverse of `episode_folder`."""
    episode_id, _, attempt = folder.partition("@")
    return episode_id, int(attempt) if attempt.isdigit() else 1


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What run.json says.

    Attributes:
        name: folder name of the run.
        created: ISO 8601, UTC.
        model: whatever the writer knew of the model: fingerprint, configuration, git revision.
        layout: the model's experts and their token spans.
        versions: of the packages that wrote the run.
    """

    name: str
    created: str
    model: Mapping[str, Any]
    layout: ModelLayout
    versions: Mapping[str, str]


def create_run_folder(
    root: Path, name: str, layout: ModelLayout, model: Mapping[str, object], readable_by: ReadableBy = "owner"
) -> Path:
    """Makes `<root>/<time>-<name>` with its run.json and returns it; `root` too where it is missing.

    Raises:
        StoreError: `root` cannot be written, or `name` is no name.
    """
    check_name("run", name)
    made: Path | None = None
    stem = f"{now_for_names()}-{name}"
    try:
        make_missing_folder(root, readable_by)
        for number in range(1, 1000):
            path = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                make_folder(path, readable_by)
            except FileExistsError:
                continue
            made = path
            break
        else:
            raise StoreError(f"{root}: a thousand runs are called {stem}: choose another name")
        (path / INDEX_FOLDER).mkdir()
        content = {
            "schema": {"name": SCHEMA_NAME, "version": SCHEMA_VERSION},
            "name": path.name,
            "created": now(),
            "versions": versions("vlascope-latents", "numpy", "zarr"),
            "model": dict(model),
            "layout": layout.to_map(),
        }
        replace_file(path / RUN_FILE, json.dumps(content, indent=1))
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise StoreError(
            f"{root}: cannot create a run here ({error.strerror}): choose a folder that can be written"
        ) from error
    return path


def read_run(path: Path) -> RunInfo:
    """Reads run.json of the run folder `path`.

    Raises:
        SchemaVersionError: another vlascope wrote it.
        StoreError: there is no run.json, or it is not ours.
    """
    file = path / RUN_FILE
    try:
        content = json.loads(file.read_bytes())
        schema = content["schema"]
        name, version = schema["name"], schema["version"]
    except OSError as error:
        raise StoreError(f"{file}: cannot read the run's description ({error.strerror}): is this a run?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: expected the description of a run with a schema version, found none") from error
    if name != SCHEMA_NAME or not isinstance(version, int):
        raise StoreError(f"{file}: expected schema {SCHEMA_NAME}, found {name} {version!r}")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{file}: schema {SCHEMA_NAME} version {version} is newer than {SCHEMA_VERSION}, "
            "which this vlascope reads: upgrade vlascope-latents"
        )
    if version < SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{file}: schema {SCHEMA_NAME} version {version} is older than {SCHEMA_VERSION}, which this vlascope reads: "
            "capture it again, or move it out of this folder"
        )
    try:
        layout = ModelLayout.from_map(content["layout"])
        return RunInfo(path.name, content["created"], content["model"], layout, content["versions"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{file}: field {error} is missing or wrong: the file was edited or damaged") from error


def find_runs(path: Path) -> list[Path]:
    """The run folders at `path`: itself, or the folders in it; oldest first.

    Raises:
        StoreError: there is none.
    """
    if (path / RUN_FILE).is_file():
        return [path]
    try:
        runs = sorted(Path(entry.path) for entry in os.scandir(path) if os.path.isfile(f"{entry.path}/{RUN_FILE}"))
    except OSError as error:
        raise StoreError(f"{path}: cannot open the store ({error.strerror}): give a run or a folder of runs") from error
    if not runs:
        raise StoreError(f"{path}: no run here: expected {RUN_FILE} in it or in its folders")
    return runs


def make_folder(path: Path, readable_by: ReadableBy) -> None:
    """Makes a folder that its owner may write, and they may read, and whatever folders are missing above it.

    Raises:
        FileExistsError: something is there.
        OSError: it cannot be made.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_MODES["owner"])
    if readable_by != "owner":
        path.chmod(_MODES[readable_by])  # whatever the umask: somebody asked for it


def make_missing_folder(path: Path, readable_by: ReadableBy) -> None:
    """`make_folder` where there is none; one that is there stays as it is."""
    try:
        make_folder(path, readable_by)
    except FileExistsError:  # perhaps only just, by somebody else
        if not path.is_dir():
            raise
