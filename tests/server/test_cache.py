"""What the cache folder holds is shown and cleared by kind, and nothing else in it is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import filelock
import pytest
from vlascope_server.cache_contents import CACHE_KINDS, PROTOCOLS, CachePart, cache_parts, clear
from vlascope_server.checkpoints import remote
from vlascope_server.commands import main

FILES = {
    "xla/jit_a-0f-cache": 5000,
    "xla/jit_a-0f-atime": 8,
    "xla/.lockfile": 0,
    f"training/cubes-224-{16 * '1'}/image/episode_000000-0.npy": 700,
    f"training/cubes-224-{16 * '1'}/dataset.json": 20,
    f"training/other-14-{16 * 'a'}/image/episode_000000-0.npy": 80,
    f"assets/{16 * 'f'}/scene.xml": 60,
    f"assets/{16 * 'f'}.lock": 0,
    "gs/bucket/pi0/params/data": 1000,
    "gs/bucket/pi0/.vlascope-complete.json": 24,
    "gs/bucket/pi0.lock": 0,
    "https/host/half/model.safetensors.0.partial": 9,
    "paligemma_tokenizer.model": 4,
    f"imports/task_3_lift-{16 * '2'}-{16 * 'b'}/20260101-task_3_lift/run.json": 30,
    f"imports/task_3_lift-{16 * '2'}-{16 * 'b'}/20260101-task_3_lift/writer.lock": 0,
    f"imports/.task_4_lift-{16 * '3'}-{16 * 'c'}.{32 * '0'}.partial/20260101-task_4_lift/run.json": 2,
    f"imports/{16 * '2'}.lock": 0,
}
BYTES = {"programs": 5008, "images": 800, "assets": 60, "downloads": 1033, "tokenizers": 4, "imports": 32}
NUMBERS = {"programs": 1, "images": 2, "assets": 1, "downloads": 1, "tokenizers": 1, "imports": 1}
FOREIGN = (
    "thesis.tex",
    "assets/logo.png",
    "training/notes.txt",
    "imports/task_5/run.json",
    "xla/readme",
    "work/gs/data",
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    for name, size in {**FILES, **dict.fromkeys(FOREIGN, 3)}.items():
        file = tmp_path / "cache" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        os.utime(file, (1_000_000, 1_000_000))
    return tmp_path / "cache"


def by_kind() -> dict[str, CachePart]:
    return {part.kind: part for part in cache_parts()}


def test_every_kind_is_counted(cache):
    os.utime(cache / "xla/jit_a-0f-atime", (2_000_000, 1_500_000))
    parts = by_kind()
    assert {kind: part.nbytes for kind, part in parts.items()} == BYTES
    assert {kind: part.number for kind, part in parts.items()} == NUMBERS
    assert {kind: part.last_use for kind, part in parts.items()} == dict.fromkeys(BYTES, 1_000_000) | {
        "programs": 2_000_000
    }


def test_every_protocol_that_is_downloaded_from_is_known():
    assert set(PROTOCOLS) == set(remote._PACKAGES)


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_one_kind_is_cleared_and_nothing_else(cache, kind):
    assert clear(kind) == BYTES[kind]
    left = {name: part.nbytes for name, part in by_kind().items()}
    assert left == BYTES | {kind: 0}
    assert by_kind()[kind] == CachePart(kind, by_kind()[kind].what, 0, 0, None)
    assert all((cache / name).is_file() for name in FOREIGN)
    assert clear(kind) == 0
    # what is left of a folder would pass for the whole
    assert kind != "imports" or [path.name for path in (cache / "imports").iterdir() if path.is_dir()] == ["task_5"]


def test_an_empty_cache_is_shown_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "none"))
    assert main(["cache"]) == 0
    assert "0 B" in capsys.readouterr().out
    assert main(["cache", "--clear", "all"]) == 0
    assert "together    0 B freed" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_the_command_shows_and_clears(cache, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"cache folder {cache}: 6.937 kB\n")
    assert max(map(len, out.splitlines()[1:])) <= 80
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["programs"])
    assert row[:6] == ["programs", "compiled", "programs", "1", "5.008", "kB"]
    assert row[6].startswith("1970-01-1")
    assert main(["cache", "--clear", "images", "tokenizers"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "images      800 B freed", "tokenizers  4 B freed", "together    804 B freed",
    ]  # fmt: skip
    assert main(["cache", "--clear", "all"]) == 0
    assert "together    6.133 kB freed" in capsys.readouterr().out
    assert sorted(FOREIGN) == sorted(
        str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"
        and file.name != ".lockfile"
    )  # fmt: skip


@pytest.mark.parametrize(("words", "found"), [((), "nothing"), (("images", "foo", "bar"), "'foo', 'bar'")])
def test_kinds_that_are_none_are_told_which_there_are(cache, capsys, words, found):
    with pytest.raises(SystemExit) as end:
        main(["cache", "--clear", *words])
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    choices = "programs, downloads, images, assets, tokenizers, imports, all"
    assert f"expected one or several of {choices}; found {found}" in said
    assert {kind: part.nbytes for kind, part in by_kind().items()} == BYTES


def test_the_command_shows_and_clears_as_json(cache, capsys):
    assert main(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["folder"], shown["bytes"]) == (str(cache), sum(BYTES.values()))
    kinds = {kind.pop("kind"): kind for kind in shown["kinds"]}
    assert list(kinds) == list(CACHE_KINDS)
    assert kinds["images"] == {
        "what": "datasets with resized images", "number": 2, "bytes": 800, "last_use": "1970-01-12T13:46:40+00:00"
    }  # fmt: skip
    assert main(["cache", "--clear", "tokenizers", "images", "--json"]) == 0
    freed = {"images": 800, "tokenizers": 4}
    assert json.loads(capsys.readouterr().out) == {"folder": str(cache), "freed": freed, "bytes": 804}
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"][2]["last_use"] is None


@pytest.mark.parametrize("options", [[], ["--json"], ["--clear", "all"]])
def test_a_file_is_no_cache_folder(tmp_path, monkeypatch, capsys, options):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("VLASCOPE_CACHE", str(file))
    assert main(["cache", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"vlascope-server: VLASCOPE_CACHE: {file}: expected a folder, or nothing yet, found a file")


def test_what_somebody_writes_is_not_cleared(cache, capsys, monkeypatch):
    monkeypatch.setattr("vlascope_server.cache_contents._LOCK_SECONDS", 0.0)
    with filelock.FileLock(cache / "gs/bucket/pi0.lock"):
        assert main(["cache", "--clear", "downloads"]) == 2
    assert capsys.readouterr().err == (
        f"vlascope-server: {cache}/gs/bucket: another process writes there; wait for it to end\n"
    )
    assert by_kind()["downloads"].nbytes == BYTES["downloads"]
