"""Opens stores to read: which runs, episodes, frames and components there are, and any slice of them.

Runs that are still being written open too, and show committed frames only.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from vlascope_base.text import listed

from vlascope_latents.layout import Span
from vlascope_latents.store.episode import Episode
from vlascope_latents.store.errors import DamagedError, NotCapturedError, SchemaVersionError, StoreError
from vlascope_latents.store.labels import FrameLabels
from vlascope_latents.store.run_folder import (
    NO_CAMPAIGN,
    TABLE_FILE,
    ZARR_FOLDER,
    RunInfo,
    find_runs,
    read_run,
)
from vlascope_latents.store.sealing import EPISODES
from vlascope_latents.store.selection import FrameRef, Selection, resolve
from vlascope_latents.store.shard_reader import ShardReader
from vlascope_latents.store.table import EpisodeRow, read_table
from vlascope_latents.store.tensors import StoredTensor

if TYPE_CHECKING:
    import pandas

_log = logging.getLogger(__name__)
_RANK = {"open": 0, "interrupted": 1, "sealed": 2}


class LatentStore:
    """A run, or a folder of runs, open for reading.

    Attributes:
        path: as given.
        shards: counts the bytes read from shards (`shards.bytes_read`).
    """

    def __init__(self, path: str | os.PathLike, folders: Sequence[Path] | None = None):
        """Opens the runs at `path`; or those in `folders`, runs or folders of runs, and `path` is what messages call them.

        Runs of another schema are left out of a folder of runs, with a warning.

        Raises StoreError where there is no run, SchemaVersionError where another vlascope wrote all that it holds.
        """
        self.path = Path(path)
        self._paths: dict[str, Path] = {}
        self._infos: dict[str, RunInfo] = {}
        others: list[SchemaVersionError] = []
        places = [self.path] if folders is None else folders
        for run in (run for place in places for run in find_runs(place)):
            try:
                self._infos[run.name] = read_run(run)
                self._paths[run.name] = run
            except SchemaVersionError as error:
                others.append(error)
        if others and not self._paths:
            raise others[0]
        for error in others:
            _log.warning("left out: %s", error)
        self.shards = ShardReader()

    @property
    def runs(self) -> list[RunInfo]:
        """The runs, oldest first."""
        return list(self._infos.values())

    def spans(self, run: str | None = None) -> dict[str, tuple[Span, ...]]:
        """By expert, the token spans of a run's model; of the last run unless told."""
        return {expert.name: expert.spans for expert in self._infos[self._run_name(run)].layout.experts}

    def episodes(
        self, run: str | None = None, *, campaign: str | None = None, attempts: Literal["last", "all"] = "last"
    ) -> list[Episode]:
        """The episodes of one run or of all, in order of run and folder.

        Args:
            run: a run's name.
            campaign: a campaign's id; `none` takes what is part of no campaign; every episode unless told.
            attempts: `last` is, of each id, the last sealed attempt; where none is sealed the last interrupted, then the
                open one. An id with a campaign has one in all the runs that are looked at (a campaign may go on at another
                server), any other id one in each run.

        Raises:
            StoreError: there is no such run or campaign.
        """
        names = list(self._paths) if run is None else [self._run_name(run)]
        found = [Episode(name, self._paths[name], row) for name in names for row in _rows(self._paths[name], attempts)]
        if attempts == "last":
            found = _last_of_campaigns(found)
        if campaign is None:
            return found
        chosen = [episode for episode in found if (episode.campaign or NO_CAMPAIGN) == campaign]
        if not chosen:
            what = "no episodes without a campaign" if campaign == NO_CAMPAIGN else f"no campaign {campaign!r}"
            campaigns = sorted({episode.campaign for episode in found if episode.campaign})
            if any(episode.campaign is None for episode in found):
                campaigns.append(f"episodes without one (--campaign {NO_CAMPAIGN})")
            raise StoreError(f"{self.path}: {what}; found {listed(campaigns)}")
        return chosen

    def episode(
        self, episode_id: str, *, run: str | None = None, campaign: str | None = None, attempt: int | None = None
    ) -> Episode:
        """One episode by id; its name within its campaign is enough where only one campaign has it.

        Raises:
            StoreError: there is none, or several runs or campaigns have one and `run` or `campaign` is not given.
        """
        return self.chosen([episode_id], run=run, campaign=campaign, attempt=attempt)[0]

    def chosen(
        self,
        episode_ids: Sequence[str],
        *,
        run: str | None = None,
        campaign: str | None = None,
        attempt: int | None = None,
    ) -> list[Episode]:
        """Several at once, as `episode` finds each."""
        by_id, by_name = defaultdict(list), defaultdict(list)
        for episode in self.episodes(run, campaign=campaign, attempts="last" if attempt is None else "all"):
            if attempt in (None, episode.row.attempt):
                by_id[episode.id].append(episode)
                by_name[episode.row.name].append(episode)
        chosen = []
        for asked in episode_ids:
            found = by_id.get(asked) or by_name.get(asked, [])
            if len(found) != 1:
                what = f"{self.path}: episode {asked!r}" + (f", attempt {attempt}" if attempt else "")
                raise _not_one(what, found, by_id)
            chosen += found
        return chosen

    def frames(
        self, run: str | None = None, *, campaign: str | None = None, attempts: Literal["last", "all"] = "last"
    ) -> pandas.DataFrame:
        """A table with one row a committed frame and one column a label, in order of run, episode and frame.

        Reads the index of each episode and neither tensors nor Zarr groups. The columns are those of `Selection.labels`: text,
        Int64, boolean and float64, with NA (NaN where there are fractions) for what is not known. `episodes` documents the
        arguments.

        Raises:
            StoreError: there is no such run or campaign, an index is damaged, or pandas is not installed.
        """
        episodes = self.episodes(run, campaign=campaign, attempts=attempts)
        owner: list[int] = []
        found: list[tuple[int, int]] = []
        for place, episode in enumerate(episodes):
            lines = episode.lines()  # with its small values: those of one episode at a time stay in memory
            found += [(line.timestep, line.frame) for line in lines]
            owner += [place] * len(lines)
        timestep, frame = np.array(found, np.int64).reshape(-1, 2).T
        return FrameLabels(episodes, np.array(owner, np.int64), timestep, frame).table()

    def components(self, episode: str | Episode | None = None) -> dict[str, StoredTensor]:
        """By path (`vlm/hidden_states`), what an episode holds; the first episode unless told."""
        if episode is None:
            episodes = self.episodes()
            return episodes[0].tensors() if episodes else {}
        return (self.episode(episode) if isinstance(episode, str) else episode).tensors()

    def select(
        self,
        expert: str,
        component: str = "hidden_states",
        *,
        layers: int | Iterable[int] | None = None,
        denoise_steps: int | Iterable[int] | None = None,
        decode_steps: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        span: str | None = None,
        episodes: str | Episode | Sequence[str | Episode] | None = None,
        timesteps: Container[int] | None = None,
        run: str | None = None,
        campaign: str | None = None,
    ) -> Selection:
        """A slice of what was captured. Reads indices and metadata now, tensors when asked (`Selection.array`).

        Args:
            expert: for example `vlm` or `action`.
            component: for example `hidden_states`; the site's name where it has one.
            layers: the model's layer numbers; all that were captured unless told.
            denoise_steps, decode_steps, heads: the same for steps of an expert's loop and heads of attention.
            span: `image`, a camera, `text`, `state`, `action`; every captured token unless told. Where tokens were reduced,
                those of the captured spans that this names. Of attention it is a span of queries; every captured key is read.
            episodes: ids or episodes; every one (its last sealed attempt) unless told.
            timesteps: for example `range(0, 50)`; every committed frame unless told.
            run, campaign: where to look for episodes that are not given as such.

        Raises:
            NotCapturedError: an episode lacks any of it; the message lists what it has.
            StoreError: there is no such run, campaign or episode, or several episodes have that name.
        """
        if episodes is None:
            chosen = self.episodes(run, campaign=campaign)
        else:
            asked = [episodes] if isinstance(episodes, str | Episode) else list(episodes)
            names = [episode for episode in asked if isinstance(episode, str)]
            found = iter(self.chosen(names, run=run, campaign=campaign) if names else ())
            chosen = [next(found) if isinstance(episode, str) else episode for episode in asked]
        if not chosen:
            raise StoreError(f"{self.path}: no episodes yet: nothing to select from")
        asked = {
            "denoise_step": _numbers(denoise_steps), "decode_step": _numbers(decode_steps),
            "layer": _numbers(layers), "head": _numbers(heads),
        }  # fmt: skip
        frames: list[FrameRef] = []
        first = None
        for episode in chosen:
            tensors = episode.tensors()
            path = f"{expert}/{component}"
            if path not in tensors:
                raise NotCapturedError(
                    f"{episode.run}, episode {episode.row.folder}: {path} was not captured; captured: {listed(tensors)}"
                )
            view = resolve(tensors[path], episode, asked, span)
            if first is None:
                first = view
            elif (view.dims, view.shape, view.dtype) != (first.dims, first.shape, first.dtype):
                raise StoreError(
                    f"episode {episode.row.folder}: its slice has shape {view.shape} {view.dtype}, that of "
                    f"{chosen[0].row.folder} {first.shape} {first.dtype}: name layers, steps and span, or fewer episodes"
                )
            frames += [
                FrameRef(episode, view, line) for line in episode.lines() if timesteps is None or line.timestep in timesteps
            ]  # fmt: skip
        if first is None:
            raise StoreError(f"{self.path}: no episodes yet: nothing to select from")
        return Selection(self.shards, first, tuple(frames))

    def _run_name(self, run: str | None) -> str:
        name = run if run is not None else list(self._paths)[-1]
        if name not in self._paths:
            raise StoreError(f"{self.path}: no run {name!r}; found {listed(self._paths)}")
        return name


def _rows(path: Path, attempts: str) -> list[EpisodeRow]:
    rows = {row.folder: row for row in read_table(path / TABLE_FILE)}
    base = path / ZARR_FOLDER / EPISODES
    try:
        folders = [entry.name for entry in os.scandir(base) if entry.name not in rows and entry.name != "zarr.json"]
    except FileNotFoundError:
        folders = []
    for folder in folders:
        try:
            rows[folder] = EpisodeRow.from_attributes(
                folder, json.loads((base / folder / "zarr.json").read_bytes())["attributes"]
            )
        except (FileNotFoundError, NotADirectoryError):
            continue  # being created
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{base / folder / 'zarr.json'}: damaged: expected an episode's attributes") from error
    if attempts == "last":
        last: dict[str, EpisodeRow] = {}
        for row in rows.values():
            known = last.get(row.episode)
            if known is None or (_RANK[row.status], row.attempt) > (_RANK[known.status], known.attempt):
                last[row.episode] = row
        rows = {row.folder: row for row in last.values()}
    return [rows[folder] for folder in sorted(rows)]


def _last_of_campaigns(episodes: list[Episode]) -> list[Episode]:
    """Of each id with a campaign the one that counts, the newest run's among equals; whatever has none stays."""
    last: dict[str, Episode] = {}
    for episode in episodes:
        known = last.get(episode.id)
        if known is None or _RANK[episode.status] >= _RANK[known.status]:
            last[episode.id] = episode
    return [episode for episode in episodes if episode.campaign is None or last[episode.id] is episode]


def _not_one(what: str, found: Sequence[Episode], known: Iterable[str]) -> StoreError:
    if not found:
        return StoreError(f"{what}: not here; found {listed(known)}")
    if len(ids := dict.fromkeys(episode.id for episode in found)) > 1:
        return StoreError(f"{what}: several campaigns have it: name one of {listed(ids)}")
    return StoreError(f"{what}: in several runs ({', '.join(episode.run for episode in found)}): name the run")


def _numbers(value: int | Iterable[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    return tuple(value) if isinstance(value, Iterable) else (value,)
