"""Attempts that were never sealed can be taken back, so that an episode is captured anew as its first attempt."""

from __future__ import annotations

import pytest
from vlascope_latents.store import LatentStore, RunWriter, StoreError, verify
from vlascope_latents.store.recovery import discard_episode

from tests.latents.store_fixtures import LAYOUT, frame, plan, values


def write(run: RunWriter, name: str, frames: int, *, seal: bool) -> None:
    episode = run.open_episode(name, {"instruction": name}, plan())
    for n in range(frames):
        episode.append(frame(plan(), n), timestep=n, values=values(n))
    if seal:
        episode.seal(success=True)
    else:
        episode.interrupt()


@pytest.fixture
def path(tmp_path):
    """A run with a sealed episode, and one that was interrupted twice."""
    with RunWriter.create(tmp_path, "tiny", LAYOUT) as run:
        write(run, "c+whole", 2, seal=True)
        for frames in (3, 1):
            write(run, "c+broken", frames, seal=False)
    return run.path


def folders(path) -> set[str]:
    return {episode.row.folder for episode in LatentStore(path).episodes(attempts="all")}


def test_every_interrupted_attempt_goes_and_the_next_is_the_first(path):
    assert folders(path) == {"c+whole", "c+broken", "c+broken@2"}
    with RunWriter.open(path) as run:
        run.discard("c+broken")
        run.discard("c+never")
        assert folders(path) == {"c+whole"}
        assert not list(path.glob("index/c+broken*"))
        assert not list(path.glob("latents.zarr/episodes/c+broken*"))
        write(run, "c+broken", 2, seal=True)
    episodes = LatentStore(path).episodes(attempts="all")
    assert [(e.id, e.row.attempt, e.status, e.frames) for e in episodes] == [
        ("c+broken", 1, "sealed", 2),
        ("c+whole", 1, "sealed", 2),
    ]
    assert [str(problem) for problem in verify(episodes)] == []


def test_what_is_sealed_or_open_is_refused(path):
    with RunWriter.open(path) as run:
        with pytest.raises(StoreError, match=r"c\+whole: c\+whole is sealed; expected interrupted attempts"):
            run.discard("c+whole")
        run.open_episode("c+broken", {}, plan())
        with pytest.raises(StoreError, match=r"c\+broken: it is open"):
            run.discard("c+broken")
    assert "c+whole" in folders(path)


@pytest.mark.parametrize("gone", ["index", "everything but the folder"])
def test_a_kill_in_the_middle_leaves_what_another_call_removes(path, gone):
    with RunWriter.open(path) as run:
        if gone == "index":  # the table still has it
            (path / "index" / "c+broken.jsonl").unlink()
        else:
            run._rows.pop("c+broken")
            run._write_table()
            (path / "index" / "c+broken.jsonl").unlink()
    with RunWriter.open(path) as run:
        run.discard("c+broken")
        write(run, "c+broken", 1, seal=True)
    assert folders(path) == {"c+whole", "c+broken"}


def test_a_disk_that_refuses_says_so(path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    with RunWriter.open(path) as run:
        monkeypatch.setattr("vlascope_latents.store.run_writer.discard_episode", refuse)
        with pytest.raises(StoreError, match=r"c\+broken cannot be discarded \(Read-only file system\)"):
            run.discard("c+broken")
        monkeypatch.setattr("vlascope_latents.store.run_writer.discard_episode", discard_episode)
    with RunWriter.open(path) as run:
        run.discard("c+broken")
    assert folders(path) == {"c+whole"}
