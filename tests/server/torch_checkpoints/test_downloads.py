"""What downloads leave behind, and what only looks like it; how a report says to load a file that torch refuses."""

from __future__ import annotations

import time

import pytest
from vlascope_server.torch_checkpoints import (
    TorchCheckpointError,
    downloads,
    inspect_checkpoint,
    open_torch_checkpoint,
)
from vlascope_server.torch_checkpoints.downloads import unfinished_in
from vlascope_server.torch_checkpoints.recognise import torch_file
from vlascope_server.torch_checkpoints.report import document

from tests.server.torch_checkpoints.files import Raw, Tensor, named, pickled, write_checkpoint

WEIGHTS = {"state_dict": {"w": Tensor("0", (4,))}}


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_lock_alone_proves_nothing(tmp_path):
    with pytest.raises(TorchCheckpointError, match="a lock file, which holds no weights"):
        open_torch_checkpoint(touch(tmp_path / "uv.lock"))
    touch(tmp_path / "poetry" / "model.pt.lock")
    assert unfinished_in(tmp_path) is None
    # the hub's, of files that came
    touch(tmp_path / ".cache/huggingface/download/checkpoints/a.pt.lock")
    touch(tmp_path / "checkpoints" / "a.pt", b"x")
    touch(tmp_path / "hub/.locks/models--o--n/abc.lock")
    touch(tmp_path / "hub/models--o--n/blobs/abc", b"x")
    assert unfinished_in(tmp_path) is None
    assert torch_file(str(tmp_path / "poetry")) is None


def test_a_lock_of_the_hub_whose_file_never_came(tmp_path):
    lock = touch(tmp_path / "my dir/.cache/huggingface/download/checkpoints/kosmos_ph_oxe-pretrain.pt.lock")
    said = unfinished_in(tmp_path) or ""
    assert "a download of kosmos_ph_oxe-pretrain.pt by the Hugging Face hub was begun" in said
    assert "only 1 lock file" in said
    command = "`hf download robovlms/RoboVLMs checkpoints/kosmos_ph_oxe-pretrain.pt --local-dir "
    assert f"{command}'{tmp_path / 'my dir'}'`" in said
    touch(lock.with_name("xyz.incomplete"), b"12345")
    assert "never finished: 1 unfinished (5 B so far)" in (unfinished_in(tmp_path) or "")
    (tmp_path / "other").mkdir()
    touch(tmp_path / "other/.locks/models--owner--name/abc.lock")
    assert "`hf download owner/name FILE`, with FILE the one that is meant" in (unfinished_in(tmp_path / "other") or "")
    missing = tmp_path / "other/models--owner--name/snapshots/0123/sub/model.pt"
    touch(tmp_path / "other/models--owner--name/snapshots/0123/part.incomplete")
    missing.parent.mkdir()
    missing.symlink_to("nowhere")
    with pytest.raises(TorchCheckpointError, match=r"`hf download owner/name sub/model\.pt`"):
        open_torch_checkpoint(missing)


def test_the_search_is_bounded(tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*"abcdefghijkl")
    touch(deep / "x.incomplete")
    assert unfinished_in(tmp_path) is None
    assert unfinished_in(deep.parent) is not None
    monkeypatch.setattr(downloads, "_MOST_SEEN", 50)
    for n in range(60):
        touch(tmp_path / "wide" / f"{n:03d}.txt")
    touch(tmp_path / "wide" / "z.incomplete")
    assert unfinished_in(tmp_path / "wide") is None
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    start = time.monotonic()
    assert unfinished_in(tmp_path / "loop") is None
    assert time.monotonic() - start < 10


def report(path, content, **options):
    found = inspect_checkpoint(open_torch_checkpoint(write_checkpoint(path, content), **options))
    return document([found], None)


def test_loading_says_what_torch_refuses(tmp_path):
    plain = report(tmp_path / "a.pt", WEIGHTS)
    assert "\nWith torch:\n" in plain
    assert "refuses" not in plain
    for module, name in (("argparse", "Namespace"), ("acme", "Config"), ("pathlib", "PosixPath")):
        text = report(tmp_path / "b.pt", {**WEIGHTS, "args": Raw(named(module, name) + b")R")})
        warning, example = text.index("`weights_only=True` refuses it"), text.index("torch.load(")
        assert warning < example
        assert f"`{module}.{name}`" in text
        assert "# raises an error unless" in text


def test_no_recipe_for_a_file_that_calls_something(tmp_path):
    call = Raw(named("os", "system") + pickled(("touch CANARY",))[2:-1] + b"R")
    text = report(tmp_path / "bad.pt", {**WEIGHTS, "hook": call}, trust=True)
    assert "**Do not load this file with torch.**" in text
    assert "`os.system('touch CANARY')`" in text
    assert "torch.load(" not in text
    assert "bad.pt', trust=True)" in text


def test_names_in_a_report_are_whole_words_of_markdown(tmp_path):
    weights = {"x" * 1000: Tensor("0", (4,)), "a`b.layers.0.weight": Tensor("1", (4,)), "tied": Tensor("1", (4,))}
    text = report(tmp_path / "odd.pt", weights)
    assert "`` a`b.layers.N ``, N is 0 |" in text
    assert "checkpoint.array('a`b.layers.0.weight')" in text
    assert "1 name has the values of an earlier name." in text
    assert "x" * 201 not in text
