"""Which asset files a suite needs, asked of hf-libero's own classes.

Every category of object is a class that reads its file when it is made: made in an empty folder, it says which file it lacks.
Every kind of problem names its scene, floor and wall to the base class that it extends.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from vlascope_sim.environment.package import use_assets
from vlascope_sim.environment.tasks import suite_tasks
from vlascope_sim.errors import SimulationError

_STYLED = {"texplane": "floor", "tex-wall": "wall"}
"""Textures of a scene whose file the arena's class replaces by a style's."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one suite asks for, as paths from the assets' root.

    Attributes:
        objects: files of the object classes.
        scenes: scene → the textures of its styles, by kind (`floor`, `wall`).
    """

    objects: tuple[str, ...]
    scenes: dict[str, dict[str, str]]


def missing_files(suite: str, folder: Path) -> list[str]:
    """Files that `suite` needs and `folder` lacks, sorted; those that present files refer to are among them."""
    needs = suite_needs(suite)
    missing = set()
    for name in needs.objects:
        missing.update(_missing_from(folder, name, {}))
    for name, styles in needs.scenes.items():
        missing.update(_missing_from(folder, name, styles))
    return sorted(missing)


@functools.cache
def suite_needs(suite: str) -> Needs:
    """What the tasks of a suite ask for.

    Raises:
        SimulationError: there is no such suite, or a task names an object that hf-libero does not know.
    """
    categories, problems = set(), {}
    for task in suite_tasks(suite):
        text = task.bddl_file.read_text()
        problem = _found(r"\(problem\s+(\w+)\)", text).lower()
        problems.setdefault(problem, task.bddl_file)
        for section in ("objects", "fixtures"):
            categories.update(re.findall(r"-\s*(\w+)", _found(rf"\(:{section}(.*?)\)", text)))
    with tempfile.TemporaryDirectory() as empty:
        previous = _use_empty(empty)
        try:
            scenes = dict(_scene(name, bddl, empty) for name, bddl in problems.items())
            objects = [_object_file(category, empty) for category in sorted(categories)]
        finally:
            _restore(previous)
    return Needs(tuple(file for file in objects if file is not None), scenes)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    return match[1] if match else ""


def _object_file(category: str, empty: str) -> str | None:
    """None for the floor and the tables: a category that no class makes belongs to the scene."""
    from libero.libero.envs.objects import OBJECTS_DICT

    make = OBJECTS_DICT.get(category)
    if make is None:
        return None
    try:
        make()
    except FileNotFoundError as error:
        return os.path.relpath(error.filename, empty).replace(os.sep, "/")
    raise SimulationError(
        f"object category {category!r}: its class reads no file of its own; hf-libero 0.1.4 was expected"
    )


def _scene(problem: str, bddl: Path, empty: str) -> tuple[str, dict[str, str]]:
    from libero.libero.envs.arenas.style import get_texture_filename
    from libero.libero.envs.bddl_base_domain import TASK_MAPPING, BDDLBaseDomain

    class Listener(BDDLBaseDomain):
        """Comes between the problem's class and its base, and builds nothing."""

        def __init__(self, bddl_file_name, *args, **kwargs):
            self.heard = kwargs

    heard = type("Probe", (TASK_MAPPING[problem], Listener), {})(str(bddl), robots=["Panda"]).heard
    styles = {kind: heard["scene_properties"][f"{kind}_style"] for kind in _STYLED.values()}
    return heard["scene_xml"], {kind: get_texture_filename(kind, style) for kind, style in styles.items()}


def _missing_from(folder: Path, name: str, styles: dict[str, str]) -> list[str]:
    """The file itself, or the files that it refers to and that are not there."""
    if not (folder / name).is_file():
        return [name]
    missing = []
    for element in ElementTree.parse(folder / name).iter():  # noqa: S314  (the file that MuJoCo is about to read)
        reference = element.get("file")
        if reference is None:
            continue
        kind = _STYLED.get(element.get("name", "")) if element.tag == "texture" else None
        if kind in styles:
            reference = "/".join([*reference.split("/")[:-1], styles[kind]])
        path = os.path.normpath(os.path.join(os.path.dirname(name), reference)).replace(os.sep, "/")
        if not (folder / path).is_file():
            missing.append(path)
    return missing


def _use_empty(folder: str) -> str | None:
    import sys

    loaded = sys.modules.get("libero.libero")
    previous = loaded._assets_path_cache if loaded else None
    use_assets(Path(folder))
    return previous


def _restore(previous: str | None) -> None:
    import libero.libero

    libero.libero._assets_path_cache = previous
