"""Kills in mid-write and full disks: every run opens, every acknowledged frame is intact, nothing torn is visible."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from vlascope_base.text import counted
from vlascope_latents.store import LatentStore, RunWriter, StoreError, verify
from vlascope_latents.store.durable import DurableStore

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

KILLS = 20
ROOT = Path(__file__).parents[2]


def acknowledged(lines: list[str]) -> dict[tuple[str, int], int]:
    counts: dict[tuple[str, int], int] = {}
    for line in lines:
        name, attempt, count = line.split()
        counts[name, int(attempt)] = max(int(count), counts.get((name, int(attempt)), 0))
    return counts


def check(root: Path, counts: dict[tuple[str, int], int], offsets: dict[str, int]) -> None:
    store = LatentStore(root)
    episodes = store.episodes(attempts="all")
    found = {(e.id, e.row.attempt): e.frames for e in episodes}
    for key, count in counts.items():
        assert found.get(key, 0) >= count, (key, count, found)
    assert [str(problem) for problem in verify(episodes)] == []
    for episode in episodes:  # what is said at the end is there with the seal, and not without
        said = {"said_at_end": offsets[episode.id]} if episode.status == "sealed" else {}
        assert episode.metadata == {"offset": offsets[episode.id], **said}
    for episode in episodes[-2:]:
        if episode.frames:
            got = store.select("vlm", episodes=[episode]).array()
            want = np.stack(
                [frame(plan(), offsets[episode.id] + n)["vlm/hidden_states"] for n in range(episode.frames)]
            )
            np.testing.assert_array_equal(got, want)


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.name.endswith((".partial", ".repack", ".replaced"))]


def check_recovered(root: Path) -> None:
    """After recovery, every reader of Zarr sees exactly the committed frames."""
    import zarr

    assert leftovers(root) == []
    for episode in LatentStore(root).episodes(attempts="all"):
        assert episode.status in ("sealed", "interrupted")
        assert len(list((episode.folder / "vlm/hidden_states").glob("c.*"))) == episode.frames
        group = zarr.open_group(episode.folder, mode="r")
        assert group["vlm/hidden_states"].shape[0] == episode.frames  # pyright: ignore[reportAttributeAccessIssue]
        assert group["timestep"].shape == (episode.frames,)  # pyright: ignore[reportAttributeAccessIssue]


def kill_one(root: Path, delay: float) -> dict[tuple[str, int], int]:
    """Kills a writer `delay` seconds after its third report; returns what it acknowledged."""
    command = [sys.executable, "-m", "tests.latents.store_victim", str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        reader.start()
        deadline = time.monotonic() + 60
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        reader.join()
    return acknowledged(lines)


def test_twenty_kills(tmp_path):
    rng = random.Random(0)  # noqa: S311
    roots = [tmp_path / str(kill) for kill in range(KILLS)]
    with ThreadPoolExecutor(4) as pool:
        counted = list(pool.map(kill_one, roots, [rng.uniform(0, 0.3) for _ in roots]))
    victims = list(zip(roots, counted, strict=True))

    interrupted = swept = 0
    for root, counts in victims:
        assert counts, "the victim wrote nothing"
        check(root, counts, {"a": 0, "b": 100})
        (run,) = root.iterdir()
        recovery = RunWriter.recover(run)
        interrupted += len(recovery.interrupted)
        swept += len(recovery.swept)
        check(root, counts, {"a": 0, "b": 100})
        check_recovered(root)
        again = RunWriter.recover(run)
        assert [*again.interrupted, *again.swept, *again.rows] == []
    assert interrupted >= KILLS  # the kills came in mid-write
    assert swept > 0


class SmallDisk(DurableStore):
    """Takes `room` bytes, then no more."""

    room = 0

    def _set_durably(self, key, value):
        SmallDisk.room -= len(value)
        if SmallDisk.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._set_durably(key, value)


@pytest.mark.parametrize("frames_of_room", [0.5, 2.5, 5.3, 5.95])
def test_a_quota(tmp_path, frames_of_room):
    capture = plan()
    run = RunWriter.create(tmp_path, "quota", LAYOUT, open_store=unlimited)
    episode = run.open_episode("a", {"offset": 0}, capture)
    SmallDisk.room = int(frames_of_room * capture.nbytes)
    fill(episode, capture)
    with pytest.raises(StoreError) as error:
        episode.seal(success=True, metadata={"said_at_end": 0})
    assert counted(episode.committed, "frame is", "frames are") + " committed" in str(error.value)
    assert "No space left" in str(error.value)
    assert "\n" not in str(error.value)
    assert episode.committed <= frames_of_room
    run.close()
    check(tmp_path, {("a", 1): episode.committed}, {"a": 0})
    SmallDisk.room = 1 << 40
    RunWriter.recover(run.path)
    check(tmp_path, {("a", 1): episode.committed}, {"a": 0})
    check_recovered(tmp_path)
    assert LatentStore(tmp_path).episode("a").status == "interrupted"


def unlimited(path):
    SmallDisk.room = 1 << 40
    return SmallDisk(path)


def fill(episode, capture, frames=200):
    """Appends until the episode fails."""

    def append_all():
        for n in range(frames):
            episode.append(frame(capture, n), timestep=n, values=values(n))
            time.sleep(0.005)

    with pytest.raises(StoreError, match="could not be written"):
        append_all()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a tmpfs takes root on Linux")
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        capture = plan()
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 200_000)
        run = RunWriter.create(disk / "runs", "full", LAYOUT)
        episode = run.open_episode("a", {"offset": 0}, capture)
        fill(episode, capture)
        with pytest.raises(StoreError):
            episode.seal(success=True)
        run.close()
        assert episode.committed > 3
        check(disk / "runs", {("a", 1): episode.committed}, {"a": 0})
        ballast.unlink()
        RunWriter.recover(run.path)
        check(disk / "runs", {("a", 1): episode.committed}, {"a": 0})
        check_recovered(disk / "runs")
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607
