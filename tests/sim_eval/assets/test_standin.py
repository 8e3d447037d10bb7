"""Stand-in assets: the same bytes everywhere, a folder that is whole or not there, files that MuJoCo and the initial states
accept."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from vlascope_sim.assets import standin
from vlascope_sim.assets.needs import suite_needs
from vlascope_sim.assets.standin import standin_files, standin_hash, write_standins
from vlascope_sim.assets.textures import png
from vlascope_sim.environment import STEP_LIMITS, suite_tasks
from vlascope_sim.environment.package import use_assets

ROBOT_NUMBERS = 9
FREE_JOINT = (7, 6)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path))
    return tmp_path / "assets"


def test_another_process_makes_the_same_bytes():
    program = "from vlascope_sim.assets.standin import standin_hash; print(standin_hash())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == standin_hash()


def test_the_hash_covers_paths_and_contents(monkeypatch):
    files = standin_files()
    hashes = {standin_hash()}
    name = next(iter(files))
    for changed in (
        {**files, name: files[name] + b" "},
        {**files, "more": b""},
        {k: v for k, v in files.items() if k != name},
    ):
        monkeypatch.setattr(standin, "standin_files", lambda changed=changed: changed)
        hashes.add(standin_hash.__wrapped__())
    assert len(hashes) == 4


def test_processes_that_start_together_get_one_whole_folder(cache):
    program = "from vlascope_sim.assets.standin import write_standins; print(write_standins())"
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in started}
    assert folders == {str(cache / standin_hash())}
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == standin_files()


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_standins()
    assert [p for p in cache.iterdir() if p.is_dir()] == []


def test_a_changed_set_is_written_anew(cache):
    folder = write_standins()
    name = "scenes/libero_floor_base_style.xml"
    (folder / name).write_text("<mujoco/>")
    assert write_standins() == folder
    assert (folder / name).read_bytes() == standin_files()[name]


def test_textures_are_what_a_png_reader_sees():
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(pixels)))) == pixels).all()
    for name, content in standin_files().items():
        if name.endswith(".png"):
            assert np.asarray(Image.open(io.BytesIO(content))).std() > 0.5, name


def test_every_object_compiles_and_weighs_something(cache):
    folder = write_standins()
    use_assets(folder)
    import mujoco  # which reads MUJOCO_GL, set by now

    for name in standin_files():
        if not name.endswith(".xml") or name.startswith("scenes"):
            continue
        model = mujoco.MjModel.from_xml_path(str(folder / name))  # pyright: ignore[reportAttributeAccessIssue]
        collide, drawn = model.geom_group == 0, model.geom_group == 1
        assert (collide | drawn).all(), name
        assert (model.geom_contype[drawn] == 0).all(), name
        assert 0.01 < model.body_mass.sum() < 30, name
        assert (model.site_bodyid >= 0).all()


@pytest.mark.parametrize("suite", STEP_LIMITS)
def test_scenes_have_as_many_numbers_as_the_initial_states(suite):
    for task in suite_tasks(suite):
        text = task.bddl_file.read_text()
        objects, fixtures = (
            re.findall(rf"\(:{section}(.*?)\)", text, re.DOTALL)[0] for section in ("objects", "fixtures")
        )
        count = len(re.findall(r"\w+", re.sub(r"-\s*\w+", "", objects)))
        joints = sum(_joints(fixture, suite) for fixture in re.findall(r"-\s*(\w+)", fixtures))
        positions, velocities = (ROBOT_NUMBERS + count * free + joints for free in FREE_JOINT)
        assert task.init_state(0).shape == (1 + positions + velocities,), task.name


def _joints(category: str, suite: str) -> int:
    paths = [path for path in suite_needs(suite).objects if path.endswith(f"/{category}.xml")]
    return sum(len(ElementTree.fromstring(standin_files()[path]).findall(".//joint")) for path in paths)  # noqa: S314
