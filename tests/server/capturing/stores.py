"""Compares what is in runs of a store, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from vlascope_latents.store import Episode, LatentStore, verify


def only_run(folder: Path) -> Path:
    """The one run in a folder of runs."""
    (run,) = [path for path in folder.iterdir() if (path / "run.json").is_file()]
    return run


def values_of(episode: Episode) -> dict[str, list[Any]]:
    """Everything of the index but checksums and bytes: small values as they stand in it."""
    return {
        name: [line.values.get(name) for line in episode.lines()]
        for name in sorted({name for line in episode.lines() for name in line.values})
    }


def assert_same_episode(one: Episode, other: Episode, *, said: bool = True) -> None:
    """Frames, arrays, small values and labels; `said` compares all metadata too."""
    assert (one.status, one.success, one.row.total_steps, one.frames) == (
        other.status, other.success, other.row.total_steps, other.frames
    )  # fmt: skip
    assert [line.timestep for line in one.lines()] == [line.timestep for line in other.lines()]
    assert {path: tensor.shape for path, tensor in one.tensors().items()} == {
        path: tensor.shape for path, tensor in other.tensors().items()
    }
    assert one.tensors()
    # checksums of every tensor's bytes, which `verify` compares with the files
    assert [line.xxh3 for line in one.lines()] == [line.xxh3 for line in other.lines()]
    assert values_of(one) == values_of(other)
    if said:
        assert one.metadata == other.metadata


def assert_same_runs(one: Path, other: Path) -> None:
    """Same episodes, as first attempts, with the same bits; nothing else; both whole."""
    ours, theirs = (LatentStore(run).episodes(attempts="all") for run in (one, other))
    assert [(e.id, e.row.attempt) for e in ours] == [(e.id, e.row.attempt) for e in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert_same_episode(a, b)
    for episodes in (ours, theirs):
        assert [str(problem) for problem in verify(episodes)] == []
    files = [{str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} for run in (one, other)]
    assert files[0] == files[1]


def differing(one: Episode, other: Episode) -> set[str]:
    """Arrays that are not the same in any frame."""
    pairs = zip(one.lines(), other.lines(), strict=True)
    return {path for a, b in pairs for path in a.xxh3 if a.xxh3[path] != b.xxh3[path]}


def array(run: Path, expert: str, component: str, episode: str) -> np.ndarray:
    return LatentStore(run).select(expert, component, episodes=[episode]).array()
