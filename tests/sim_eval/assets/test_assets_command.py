"""`vlascope-sim assets`: what it says of a set, and what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from vlascope_sim.assets import resolve_assets
from vlascope_sim.assets.download import REPOSITORY, REVISION
from vlascope_sim.assets.pictures import LABEL_HEIGHT, write_sheet
from vlascope_sim.commands import main

from tests.server.checkpoints.places import Hub, served


def test_a_set_that_is_whole(assets, capsys):
    assert main(["assets", "--suites", "libero_object", "libero_spatial"]) == 0
    out = capsys.readouterr().out
    assert f"{assets.kind} assets {assets.hash} in {assets.folder}" in " ".join(out.split())
    rows = [line for line in out.splitlines() if "libero_" in line and "│" in line]
    assert len(rows) == 2
    assert all(" complete" in row for row in rows)


def test_a_set_that_lacks_files(assets, tmp_path, capsys):
    shutil.copytree(assets.folder, tmp_path / "some")
    (tmp_path / "some/articulated_objects/flat_stove.xml").unlink()
    assert main(["assets", "--assets", str(tmp_path / "some"), "--suites", "libero_object", "libero_goal"]) == 0
    out = capsys.readouterr().out
    assert "libero_goal: no articulated_objects/flat_stove.xml" in out
    assert "incomplete" in next(line for line in out.splitlines() if "libero_goal " in line)
    assert "incomplete" not in next(line for line in out.splitlines() if "libero_object " in line)


def test_a_folder_that_is_no_set_is_one_line(tmp_path, capsys):
    assert main(["assets", "--assets", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vlascope-sim: assets ")


def test_a_download_without_a_hub_is_one_line(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    # the hub's library sleeps 23 s in all between its tries
    code = "import sys, time; time.sleep = lambda _: None; from vlascope_sim.commands import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "assets", "--download"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("vlascope-sim: --download: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def hub():
    """What the hub has of LIBERO's assets at the revision that we take, in small."""
    files = {"scenes/table.xml": b"<mujoco/>", "textures/wood.png": b"wood" * 1000, ".gitattributes": b"* text"}
    ours = type("Libero", (Hub,), {"repository": REPOSITORY, "commit": REVISION})
    with served(ours, files) as (address, server):
        yield address, server


def download(home, address, *options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": address, "HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "vlascope_sim", "assets", "--download", "--suites", "libero_object", *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_official_assets_come_at_one_revision_and_are_compared(hub, tmp_path):
    address, server = hub
    folder = tmp_path / ".cache/libero/assets"
    done = download(tmp_path, address)
    assert done.returncode == 0, done.stderr
    assert {str(path) for path in folder.rglob("*") if path.is_file()} >= {str(folder / name) for name in server.files}
    asked = [path for _, path in server.requests if "/resolve/" in path or "/tree/" in path]
    assert asked
    assert all(f"/{REVISION}" in path for path in asked), "never a branch"
    first = resolve_assets(folder)
    notes = folder / ".cache/huggingface/download/scenes/table.xml.metadata"
    notes.write_text(notes.read_text() + "another day")
    assert resolve_assets(folder).hash == first.hash

    (folder / "textures/wood.png").unlink()
    server.damaged.add("textures/wood.png")
    done = download(tmp_path, address)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"vlascope-sim: --download: textures/wood.png: not what {REPOSITORY} says it is at {REVISION}: damaged on the way; "
        "deleted, run it again"
    )
    assert not (folder / "textures/wood.png").exists()
    server.damaged.clear()
    assert download(tmp_path, address).returncode == 0
    assert (folder / "textures/wood.png").read_bytes() == server.files["textures/wood.png"]


def test_a_revision_that_is_gone_and_one_that_is_none(hub, tmp_path):
    done = download(tmp_path, hub[0], "--revision", "0" * 40)
    assert done.returncode == 2
    assert f"{REPOSITORY} at {'0' * 40} did not come from the Hugging Face hub" in done.stderr.splitlines()[-1]
    done = download(tmp_path, hub[0], "--revision", "main")
    assert done.returncode == 2
    assert "--revision main: expected a commit" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--revision", "0" * 40], "--revision: without --download"),
        (["--download", "--assets", "."], "--download: not together with --assets"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["assets", *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_sheet_shows_every_picture(tmp_path):
    pictures = [(f"task {n}", np.full((64, 64, 3), 40 * n, np.uint8)) for n in range(6)]
    write_sheet(pictures, tmp_path / "sheet.png", columns=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    corners = [
        sheet[(row + 1) * (64 + LABEL_HEIGHT) - 32, column * 70 + 32, 0] for row in (0, 1) for column in range(4)
    ]
    assert corners[:6] == [0, 40, 80, 120, 160, 200]


@pytest.mark.slow
def test_a_sheet_of_a_suite(assets, tmp_path, capsys):
    assert main(["assets", "--suites", "libero_object", "--contact-sheet", str(tmp_path / "sheet.png")]) == 0
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape == (2 * (256 + LABEL_HEIGHT), 5 * (256 + 6), 3)


def test_a_download_without_the_hubs_library_is_one_line(assets, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["assets", "--download"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "vlascope-sim: --download: needs huggingface_hub, which cannot be imported; run: pip install 'vlascope-sim[download]'"
    )
