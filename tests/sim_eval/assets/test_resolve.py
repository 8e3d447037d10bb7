"""Which set of assets is used, and what a set that is not whole lacks."""

from __future__ import annotations

import shutil
import sys

import pytest
from vlascope_sim.assets import resolve, resolve_assets
from vlascope_sim.assets.check import FILE, failures, read_checks
from vlascope_sim.assets.standin import standin_files, standin_hash
from vlascope_sim.environment import STEP_LIMITS
from vlascope_sim.errors import SimulationError

MILK = "stable_hope_objects/milk/milk.xml"
PLASTER = "textures/light-gray-plaster.png"


@pytest.fixture
def standins(tmp_path, monkeypatch):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resolve, "official_places", lambda: (tmp_path / "package", tmp_path / "downloaded"))
    return resolve_assets()


def test_standins_are_the_last_resort(standins, tmp_path):
    assert (standins.kind, standins.hash, standins.path.name) == ("stand-in", standin_hash(), standin_hash())
    for place in ("downloaded", "package"):
        (tmp_path / place / "scenes").mkdir(parents=True)
        found = resolve_assets()
        assert (found.path, found.kind) == (tmp_path / place, "official")
        assert found.hash != standins.hash
    assert resolve_assets(standins.path).kind == "stand-in"


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    from vlascope_base.cache import cache_folder

    monkeypatch.delenv("VLASCOPE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vlascope"
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_folder_without_scenes_is_refused(tmp_path):
    with pytest.raises(SimulationError, match=r"no folder 'scenes'") as error:
        resolve_assets(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("suite", STEP_LIMITS)
def test_standins_have_every_file(standins, suite):
    assert standins.missing(suite) == []
    assert "torch" not in sys.modules


def test_missing_files_are_named(standins, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(standins.path, folder)
    for name in (MILK, PLASTER):
        (folder / name).unlink()
    some = resolve_assets(folder)
    assert some.kind == "official"
    assert some.missing("libero_object") == [MILK, PLASTER]
    assert some.missing("libero_goal") == [PLASTER]
    assert not some.complete("libero_object")
    scene = "scenes/libero_tabletop_base_style.xml"
    (folder / scene).unlink()
    assert some.missing("libero_goal") == [scene]
    with pytest.raises(SimulationError, match="libero_x"):
        some.missing("libero_x")


def test_the_committed_check_is_of_these_shapes(standins):
    checked_hash, rows = read_checks()
    assert checked_hash == standin_hash(), (
        f"the shapes changed since {FILE.name} was made; run: vlascope-sim assets --check"
    )
    assert len({(row.suite, row.task) for row in rows}) == len(rows) == 130
    for suite in ("libero_object", "libero_spatial", "libero_goal"):
        assert failures(suite, standin_hash()) == []
        assert standins.complete(suite)
    assert len(failures("libero_object", "another")) == 1


def test_a_copy_with_one_more_file_is_not_taken_for_standins(standins, tmp_path):
    shutil.copytree(standins.path, tmp_path / "copy")
    assert resolve_assets(tmp_path / "copy").kind == "stand-in"
    (tmp_path / "copy" / "more.xml").write_text("<mujoco/>")
    assert resolve_assets(tmp_path / "copy").kind == "official"
    assert "more.xml" not in standin_files()
