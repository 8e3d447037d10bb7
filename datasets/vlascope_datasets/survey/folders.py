"""Surveys folders of HDF5 and NPZ episodes: one a file, or `data/<name>` groups as robomimic and LIBERO write them.

No pickle is read.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from vlascope_base.progress import Progress

from vlascope_datasets.errors import DatasetError
from vlascope_datasets.survey.episodes import EpisodeFacts, Facts, direction_of, find_action_key

HDF5, NPZ = (".h5", ".hdf5"), (".npz",)
_TASK_NAMES = ("language_instruction", "instruction", "language", "task", "task_name", "prompt")
# larger arrays are images: their shape is looked at, not their numbers
_READ_BYTES = 64 * 2**20


def find_files(path: Path) -> list[Path]:
    """HDF5 and NPZ files under a folder, or the file itself."""
    if path.is_file():
        return [path] if path.suffix.lower() in HDF5 + NPZ else []
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in HDF5 + NPZ and file.is_file())


def survey_folder(path: Path, progress: Progress) -> Facts:
    """Reads every episode's numbers.

    Args:
        path: a folder, or one file.
        progress: called after each file.

    Raises:
        DatasetError: there are no such files; what is wrong with one of them is listed, and nothing is raised.
    """
    files = find_files(path)
    if not files:
        raise DatasetError(f"{path}: holds no LeRobot dataset (meta/info.json), no HDF5 and no NPZ files")
    root = path if path.is_dir() else path.parent
    suffixes = {file.suffix.lower() for file in files}
    kinds = [name for name, group in (("HDF5", HDF5), ("NPZ", NPZ)) if suffixes & set(group)]
    facts = Facts(" and ".join(kinds), str(path), sum(file.stat().st_size for file in files), [])
    shapes: list[dict[str, Any]] = []
    for number, file in enumerate(files, 1):
        name = file.relative_to(root).as_posix()
        read = _hdf5 if file.suffix.lower() in HDF5 else _npz
        begun = len(facts.episodes)
        try:
            for found, columns in read(file, name):
                facts.episodes.append(found)
                shapes.append(columns)
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            broken = EpisodeFacts(name, name, 0, task=_task_of_name(file.stem))
            broken.report("unreadable", f"{file}: {(str(error) or type(error).__name__).splitlines()[0]}")
            facts.episodes.append(broken)
            shapes.append({})
        members = facts.episodes[begun:]
        for found in members:
            found.nbytes = round(file.stat().st_size / len(members))
            found.direction = direction_of(found.task, file.stem)
        progress("reading files", number, len(files))
    _declare(facts, shapes)
    return facts


def _declare(facts: Facts, shapes: list[dict[str, Any]]) -> None:
    """Takes the columns that most episodes have for the format's, and reports those that have others."""
    sets = Counter(frozenset((k, v["dtype"], tuple(v["shape"])) for k, v in each.items()) for each in shapes if each)
    if not sets:
        return
    usual, _ = sets.most_common(1)[0]
    facts.features = {key: {"dtype": dtype, "shape": list(shape)} for key, dtype, shape in sorted(usual)}
    facts.action_key = find_action_key(sorted(facts.features))
    for found, each in zip(facts.episodes, shapes, strict=True):
        other = frozenset((k, v["dtype"], tuple(v["shape"])) for k, v in each.items()) ^ usual
        if each and other:
            key, dtype, shape = sorted(other, key=str)[0]
            where = (
                "has" if key in each and (each[key]["dtype"], tuple(each[key]["shape"])) == (dtype, shape) else "lacks"
            )
            found.report("other_columns", f"{where} {key} ({dtype}, {shape}), unlike most episodes")


def _episode(
    name: str, file: str, task: str, lengths: Mapping[str, int], numbers: Mapping[str, np.ndarray]
) -> EpisodeFacts:
    found = EpisodeFacts(name, file, 0, task=task)
    action_key = find_action_key(sorted(lengths))
    if action_key is None:
        found.report("no_actions", f"no array of actions among {', '.join(sorted(lengths)) or 'none'}")
    found.length = (
        lengths[action_key] if action_key else Counter(lengths.values()).most_common(1)[0][0] if lengths else 0
    )
    if not found.length:
        found.report("empty", "no frames")
    for key, length in sorted(lengths.items()):
        # an observation after the last action is common, and right
        if length > 1 and length not in (found.length, found.length + 1):
            found.report("lengths_differ", f"{key} has {length} frames, the episode {found.length}")
    found.examine({key: values for key, values in numbers.items() if values.ndim}, action_key)
    return found


def _task_of_name(stem: str) -> str:
    words = re.split(r"[_\-.\s]+", stem)
    return " ".join(w for w in words if not re.fullmatch(r"\d+[a-z]?|episode\d*|demo\d*|ep\d*", w.lower())) or "unnamed"


def _hdf5(path: Path, name: str) -> Iterator[tuple[EpisodeFacts, dict[str, Any]]]:
    with h5py.File(path, "r") as file:
        data = file.get("data")
        groups = (
            [(key, g) for key, g in data.items() if isinstance(g, h5py.Group)] if isinstance(data, h5py.Group) else []
        )
        many = [(f"{name}:{key}", group) for key, group in sorted(groups, key=lambda pair: _natural(pair[0]))]
        for label, group in many or [(name, file)]:
            arrays: dict[str, h5py.Dataset] = {}

            def visit(key: str, item: Any, arrays: dict[str, h5py.Dataset] = arrays) -> None:
                if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "fiub":
                    arrays[key] = item

            group.visititems(visit)
            task = (
                _hdf5_task(group) or _hdf5_task(file) or (_hdf5_task(data) if many else "") or _task_of_name(path.stem)
            )
            numbers = {key: item[()] for key, item in arrays.items() if _is_numbers(item.shape, item.nbytes)}
            lengths = {key: item.shape[0] for key, item in arrays.items()}
            columns = {key: {"dtype": str(item.dtype), "shape": list(item.shape[1:])} for key, item in arrays.items()}
            yield _episode(label, name, task, lengths, numbers), columns


def _hdf5_task(group: Any) -> str:
    for name in _TASK_NAMES:
        value = group.attrs.get(name)
        if value is None and isinstance(group.get(name), h5py.Dataset):
            value = group[name][()]
        text = _as_text(value)
        if text:
            return text
    try:
        said = json.loads(_as_text(group.attrs.get("problem_info")) or "{}")
        return _as_text(said.get("language_instruction"))
    except (ValueError, AttributeError):
        return ""


def _as_text(value: Any) -> str:
    if isinstance(value, np.ndarray | list | tuple):
        flat = np.asarray(value).reshape(-1).tolist()
        value = flat[0] if flat else ""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip().strip('"') if isinstance(value, str) else ""


def _npz(path: Path, name: str) -> Iterator[tuple[EpisodeFacts, dict[str, Any]]]:
    lengths, numbers, columns, task, pickled = {}, {}, {}, "", []
    with np.load(path, allow_pickle=False) as arrays, zipfile.ZipFile(path) as archive:
        for key in arrays.files:
            member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
            if dtype.hasobject:
                pickled.append(key)
            elif dtype.kind in "US" and key in _TASK_NAMES:
                task = task or _as_text(arrays[key])
            elif shape and dtype.kind in "fiub":
                lengths[key] = shape[0]
                columns[key] = {"dtype": str(dtype), "shape": list(shape[1:])}
                if _is_numbers(shape, int(np.prod(shape)) * dtype.itemsize):
                    numbers[key] = arrays[key]
    found = _episode(name, name, task or _task_of_name(path.stem), lengths, numbers)
    for key in pickled:
        found.report("pickled", f"{key}: Python objects, which are not read")
    yield found, columns


def _is_numbers(shape: tuple[int, ...], nbytes: int) -> bool:
    return len(shape) < 3 and nbytes <= _READ_BYTES


def _natural(name: str) -> list[Any]:
    """`demo_2` before `demo_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
