"""A control run: the same frames as another policy of the same architecture saw them, such as one of weights at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from vlascope_base.progress import Progress, silent
from vlascope_base.text import listed, printable
from vlascope_latents.store import Episode, LatentStore

from vlascope_analysis.data.episodes import Numbered
from vlascope_analysis.data.features import Features, Slice, load_features
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import FramesOf

HOW = "`vlascope-server capture --checkpoint drawn:0 --like CHECKPOINT` captures a campaign's frames with weights at random"
"""How such a run is made."""


@dataclasses.dataclass(frozen=True)
class ControlRun:
    """The partners of some episodes.

    Attributes:
        store: where they are.
        episodes: the partner of each episode, in their order, with its number and the value of its label.
        name: of the policy, as the run calls it.
    """

    store: LatentStore
    episodes: tuple[Numbered, ...]
    name: str

    @classmethod
    def open(cls, path: Path, store: LatentStore, episodes: Sequence[Numbered]) -> ControlRun:
        """Opens a control run and pairs its episodes by suite, task, initial state and name.

        Args:
            path: a run.
            store: that of the episodes.
            episodes: those that are probed.

        Raises:
            AnalysisError: an episode has no partner or several, other things were captured, or both are of one policy.
            StoreError: there is no run.
        """
        control = LatentStore(path)
        partners: dict[tuple[object, ...], list[Episode]] = {}
        for episode in control.episodes():
            if episode.status == "sealed" and episode.frames:
                partners.setdefault(_key(episode), []).append(episode)
        where = f"--control-run {printable(path)}"
        alone = [e.episode.id for e in episodes if not partners.get(_key(e.episode))]
        if alone:
            raise AnalysisError(
                f"{where}: has no partner of {len(alone)} of {len(episodes)} episodes (of the same suite, task, initial state "
                f"and name), such as {printable(alone[0])}; {HOW}"
            )
        several = [e.episode.id for e in episodes if len(partners[_key(e.episode)]) > 1]
        if several:
            raise AnalysisError(
                f"{where}: has several partners of {printable(several[0])}: name one run, of one campaign"
            )
        found = [(e, partners[_key(e.episode)][0]) for e in episodes]
        for ours, partner in found:
            if partner.capture_spec() != ours.episode.capture_spec():
                raise AnalysisError(
                    f"{where}: episode {printable(partner.id)} was captured with another spec than "
                    f"{printable(ours.episode.id)}: capture the same of both; {HOW}"
                )
        _another_policy(where, store, control, found[0][0].episode, found[0][1])
        used = {partner.run for _, partner in found}
        name = next(str(run.model.get("checkpoint") or run.name) for run in control.runs if run.name in used)
        return cls(control, tuple(dataclasses.replace(ours, episode=partner) for ours, partner in found), name)

    def features(
        self,
        like: pd.DataFrame,
        what: Slice,
        timesteps: Sequence[int] | None = None,
        frames: FramesOf = "all",
        progress: Progress = silent,
    ) -> Features:
        """The slice of the partners, whose frames are those of `like` (`Features.frames` of the episodes that are probed).

        Raises:
            AnalysisError: they are not.
            NotCapturedError: a partner lacks any of it; lists what it has.
        """
        found = load_features(self.store, self.episodes, what, timesteps, progress, frames)
        where = f"--control-run {printable(self.store.path)}"
        for column, what_differs in (("timestep", "frames"), ("instruction", "instructions")):
            ours, theirs = like[column].to_numpy(), found.frames[column].to_numpy()
            if not np.array_equal(ours, theirs):
                raise AnalysisError(
                    f"{where}: its episodes have other {what_differs} than those that are probed ({len(theirs)} frames, "
                    f"{listed(theirs, 3)}; expected {len(ours)}, {listed(ours, 3)}); {HOW}"
                )
        return found


def _key(episode: Episode) -> tuple[object, ...]:
    metadata = episode.metadata
    return (*(metadata.get(name) for name in ("suite", "task_id", "init_state", "episode_index")), episode.row.name)


def _another_policy(where: str, store: LatentStore, control: LatentStore, ours: Episode, theirs: Episode) -> None:
    """Raises AnalysisError where both runs are of one policy, or of policies of different shapes."""
    one = next(run for run in store.runs if run.name == ours.run)
    other = next(run for run in control.runs if run.name == theirs.run)
    fingerprint = one.model.get("fingerprint")
    if fingerprint is not None and fingerprint == other.model.get("fingerprint"):
        raise AnalysisError(f"{where}: is of the policy that is probed ({fingerprint}): no control; {HOW}")
    if one.layout != other.layout:
        raise AnalysisError(f"{where}: is of a policy of another architecture than run {printable(one.name)}; {HOW}")
