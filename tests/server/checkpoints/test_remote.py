"""Remote checkpoints: a memory filesystem and a local web server, broken downloads, names that are not to be trusted."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import multiprocessing
import os
import re
import shutil
import threading

import fsspec
import pytest
from vlascope_server.checkpoints import CheckpointError, Sidecars, load_checkpoint, remote, save_checkpoint

from .conftest import PI0, assert_same, draw


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(saved):
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    for path in saved.rglob("*"):
        if path.is_file():
            filesystem.pipe(f"/bucket/run/1000/{path.relative_to(saved)}", path.read_bytes())
    filesystem.pipe("/bucket/run/1000/train_state/d/huge", b"not wanted")
    return filesystem


class Handler(http.server.SimpleHTTPRequestHandler):
    """A web server with ranges, which Python's own does not know, that can hang up in the middle of a file."""

    ranges = True
    gone = False
    hang_up_after: int | None = None
    requests: list[tuple[str, str | None]]

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Range")))
        if self.gone:
            return self.connection.close()
        path = self.translate_path(self.path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not os.path.isfile(path):
            return super().do_GET()
        with open(path, "rb") as file:
            data = file.read()
        total = len(data)
        if self.ranges and wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), total - 1)
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        limit = type(self).hang_up_after
        if limit is not None and len(data) > limit:
            self.wfile.write(data[:limit])
            self.close_connection = True
            return None
        self.wfile.write(data)
        return None

    def do_HEAD(self):
        return self.connection.close() if self.gone else super().do_HEAD()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def web(saved):
    """A running server; its address, and its handler to break."""
    handler = type("OneHandler", (Handler,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(saved.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/1000", handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("given", ["", "/", "/params"])
def test_memory_filesystem(memory, cache, given):
    checkpoint = load_checkpoint(f"memory://bucket/run/1000{given}", dtype="float32")
    assert_same(checkpoint.params, draw(PI0))
    assert checkpoint.asset_id == "lab/robot"
    assert checkpoint.path == cache / "memory" / "bucket" / "run" / "1000"
    assert not (cache / "memory" / "bucket" / "run" / "1000" / "train_state").exists()


def test_one_safetensors_file(memory, cache, tmp_path):
    """Given a file, the rest of the folder stays where it is until somebody asks for it."""
    folder = save_checkpoint(tmp_path / "torch", draw(PI0), PI0, kind="safetensors")
    memory.pipe("/bucket/run/1000/model.safetensors", (folder / "model.safetensors").read_bytes())
    checkpoint = load_checkpoint("memory://bucket/run/1000/model.safetensors", dtype="float32")
    assert_same(checkpoint.params, draw(PI0))
    assert (checkpoint.kind, checkpoint.asset_id) == ("safetensors", "lab/robot")
    assert not (cache / "memory" / "bucket" / "run" / "1000" / "params").exists()
    assert load_checkpoint("memory://bucket/run/1000/params").kind == "orbax"


def test_a_lerobot_policy_comes_with_what_belongs_to_it(memory, tmp_path):
    drawn = load_checkpoint("tiny-drawn", dtype="float32")
    record = dataclasses.replace(drawn.record, delta_actions=False)
    sidecars = Sidecars(norm_stats=drawn.norm_stats, asset_id="x", record=record, tokenizer=drawn.tokenizer)
    folder = save_checkpoint(tmp_path / "lerobot", drawn.params, drawn.config, sidecars, kind="lerobot")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/lerobot/{path.name}", path.read_bytes())
    memory.pipe("/bucket/lerobot/README.md", b"not fetched")
    checkpoint = load_checkpoint("memory://bucket/lerobot", dtype="float32")
    assert (checkpoint.kind, checkpoint.asset_id, checkpoint.config) == ("lerobot", "lerobot", drawn.config)
    assert checkpoint.path is not None
    assert checkpoint.tokenizer == checkpoint.path / "tokenizer.model"
    assert not (checkpoint.path / "README.md").exists()


def test_what_lies_beside_parameters_is_no_checkpoint(memory):
    memory.pipe("/bucket/empty/config.json", b"{}")
    with pytest.raises(
        CheckpointError, match=r"expected a checkpoint with params/ or model.safetensors; found config.json"
    ):
        load_checkpoint("memory://bucket/empty")


def test_web_server(web):
    url, handler = web
    assert_same(load_checkpoint(url, dtype="float32").params, draw(PI0))
    handler.requests.clear()
    load_checkpoint(url)
    assert handler.requests == []


def test_web_server_without_ranges(web, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    url, handler = web
    handler.ranges = False
    assert_same(load_checkpoint(url, dtype="float32").params, draw(PI0))


def test_broken_download_continues(web, cache, saved, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 50_000)
    url, handler = web
    handler.hang_up_after = 40_000
    with pytest.raises(CheckpointError, match=rf"{url}: the download broke off .*; run it again, it continues"):
        load_checkpoint(url)
    handler.hang_up_after = None
    (partial,) = cache.rglob("*.partial")
    (original,) = saved.rglob(partial.name.split(".")[0])
    # as after a kill in the middle of the file
    content = original.read_bytes()  # of whichever file broke off: their order is not given
    begun = min(60_001, len(content) // 2)
    partial.write_bytes(content[:begun])
    handler.requests.clear()
    assert_same(load_checkpoint(url, dtype="float32").params, draw(PI0))
    ranges = [wanted for path, wanted in handler.requests if path.endswith(original.name)]
    assert ranges[0] in (f"bytes={begun}-{begun + 49_999}", f"bytes={begun}-{len(content) - 1}")
    assert not list(cache.rglob("*.partial"))


def test_complete_files_are_not_fetched_again(memory, cache):
    load_checkpoint("memory://bucket/run/1000")
    folder = cache / "memory" / "bucket" / "run" / "1000"
    (folder / ".vlascope-complete.json").unlink()
    data = next(p for p in sorted((folder / "params").rglob("d/*")) if p.stat().st_size > 1000)
    kept = data.stat().st_ino
    (folder / "vlascope.json").unlink()
    load_checkpoint("memory://bucket/run/1000")
    assert data.stat().st_ino == kept
    assert (folder / "vlascope.json").exists()


def test_a_partial_of_another_version_starts_over(memory, cache):
    stale = cache / "memory" / "bucket" / "run" / "1000" / "params" / "_METADATA.deadbeef.partial"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"from an older upload")
    assert_same(load_checkpoint("memory://bucket/run/1000", dtype="float32").params, draw(PI0))
    assert not stale.exists()


def test_cached_checkpoint_needs_no_remote_side(memory):
    load_checkpoint("memory://bucket/run/1000")
    memory.store.clear()
    assert_same(load_checkpoint("memory://bucket/run/1000", dtype="float32").params, draw(PI0))


def test_a_lock_file_left_behind_blocks_nobody(memory, cache):
    lock = cache / "memory" / "bucket" / "run" / "1000.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert load_checkpoint("memory://bucket/run/1000").config.action_horizon == 5


def test_two_processes_download_once(web, cache):
    url, handler = web
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert pool.map(remote.fetch, [url, url]) == [cache / "http" / url[7:].replace(":", "%3A")] * 2
    files = [path for path, _ in handler.requests if path.endswith("/_METADATA")]
    assert len(files) == 1


@pytest.mark.parametrize("name", ["params/../../../../evil", "params/..", "params/a\\b", "params//x"])
def test_names_do_not_leave_the_cache(memory, cache, monkeypatch, name):
    listing = ["/bucket/run/1000/params/_METADATA", f"/bucket/run/1000/{name}"]
    monkeypatch.setattr(type(memory), "find", lambda self, path, **options: listing)
    with pytest.raises(CheckpointError, match="would leave the cache folder"):
        remote.fetch("memory://bucket/run/1000")
    assert not list(cache.rglob("evil*"))


def test_addresses_do_not_leave_the_cache():
    with pytest.raises(CheckpointError, match=r"with no '\.\.' in it"):
        remote.fetch("gs://bucket/../../etc")


def test_nothing_there(memory):
    with pytest.raises(CheckpointError, match=r"memory://bucket/none: expected a checkpoint.*found nothing"):
        load_checkpoint("memory://bucket/none")
    with pytest.raises(CheckpointError, match=r"found 1000/.*name the folder of one step"):
        load_checkpoint("memory://bucket/run")


def test_server_that_does_not_answer():
    with pytest.raises(
        CheckpointError, match=r"http://127.0.0.1:9/x: cannot be reached \(.*check the address and the network"
    ):
        load_checkpoint("http://127.0.0.1:9/x")


def test_an_old_copy_is_used_where_its_place_cannot_be_asked(web, cache, caplog):
    """A marker from before checksums were kept: the place is asked where it answers, and is needed for nothing else."""
    url, handler = web
    path = remote.fetch(url)
    marker = path / ".vlascope-complete.json"
    current = json.loads(marker.read_text())
    old = {name: value for name, value in current.items() if name != "checksums"}
    marker.write_text(json.dumps(old))
    assert remote.fetch(url) == path
    assert json.loads(marker.read_text()) == current
    marker.write_text(json.dumps(old))
    handler.gone = True
    assert remote.fetch(url) == path
    assert f"{url}: cannot be reached" in caplog.text
    assert f"the copy in {path} is used: its files have their sizes, their checksums are not known" in caplog.text
    max(path.rglob("*"), key=lambda file: file.stat().st_size).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{url}: cannot be reached"):
        remote.fetch(url)


def test_an_old_copy_is_used_where_its_checkpoint_is_gone(memory, caplog):
    marker = remote.fetch("memory://bucket/run/1000") / ".vlascope-complete.json"
    said = json.loads(marker.read_text())
    del said["checksums"]
    marker.write_text(json.dumps(said))
    memory.store.clear()
    assert_same(load_checkpoint("memory://bucket/run/1000", dtype="float32").params, draw(PI0))
    assert "found nothing" in caplog.text


def test_missing_package(monkeypatch):
    def missing(url):
        raise ImportError("no")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(CheckpointError, match=r"gs://b/x: reading gs:// needs the package gcsfs: pip install gcsfs"):
        load_checkpoint("gs://b/x")


def test_unknown_protocol():
    with pytest.raises(CheckpointError, match=r"gopher://b/x: .*expected gs://, s3://"):
        load_checkpoint("gopher://b/x")


def test_file_urls(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "with space")
    assert load_checkpoint(folder.as_uri()).path == folder
