"""Which episodes of a store an analysis is about, and what to say where some that were asked for are missing."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from vlascope_base.text import counted, listed
from vlascope_latents.store import Episode, LatentStore

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery, Range

NO_TASK = -1
"""The task of an episode that does not say one."""


@dataclasses.dataclass(frozen=True)
class Numbered:
    """An episode with its task (`NO_TASK` where it says none) and its number within the task."""

    episode: Episode
    suite: str
    task: int
    number: int


def choose_episodes(store: LatentStore, query: EpisodeQuery) -> tuple[list[Numbered], list[str]]:
    """The episodes that a query asks for, and warnings.

    An episode without `episode_index` is numbered by its place among its task's, in order of run and id. Left out, and named
    in a warning, are episodes that say neither what the policy was told nor a task's name, and, where others say their task,
    those that do not (no `task_id`): nobody decided that they are a class beside the tasks. Where none has one, all are taken.

    Raises:
        AnalysisError: nothing matches, no episode has something to predict, part of an explicit range is missing, or episodes
            of different models or suites would mix; the message lists what there is.
    """
    query.check()
    here = [episode for episode in store.episodes(query.run_name, campaign=query.campaign) if episode.frames]
    wanted = ("sealed", "interrupted") if query.interrupted else ("sealed",)
    left_out = [episode for episode in here if episode.status not in wanted]
    episodes = _numbered([episode for episode in here if episode.status in wanted])
    episodes = _without(store, episodes, query.exclude_episodes)
    if not episodes:
        hint = "; --interrupted takes those that were interrupted" if any(
            episode.status == "interrupted" for episode in left_out
        ) else ""  # fmt: skip
        raise AnalysisError(f"{store.path}: no sealed episodes with captured frames{hint}")
    warnings = [f"{counted(len(left_out), 'episode')} left out: {listed(sorted({e.status for e in left_out}))}"] * bool(
        left_out
    )
    episodes = _of_tasks(store, episodes, warnings)
    episodes = _of_suite(store, episodes, query)
    known = {(e.task, e.number) for e in episodes}
    tasks, numbers = sorted({task for task, _ in known}), sorted({number for _, number in known})
    episodes = [e for e in episodes if _within(e.task, query.task_range) and _within(e.number, query.episode_range)]
    missing = _missing(query, {(e.task, e.number) for e in episodes}, tasks, numbers)
    if not episodes or (missing and not query.allow_missing):
        hint = "; --allow-missing takes what there is" if episodes else ""
        raise AnalysisError(f"{store.path}: {missing or 'no episode matches'}{hint}")
    if missing:
        warnings.append(missing)
    _same_model(store, episodes)
    campaigns = {e.episode.campaign or "none" for e in episodes}
    if len(campaigns) > 1:
        warnings.append(f"episodes of several campaigns: {listed(sorted(campaigns))}; --campaign takes those of one")
    return episodes, warnings


def _without(store: LatentStore, episodes: list[Numbered], excluded: tuple[str, ...]) -> list[Numbered]:
    unknown = sorted(set(excluded) - {e.episode.id for e in episodes})
    if unknown:
        raise AnalysisError(
            f"{store.path}: --exclude-episodes: no episode {listed(unknown)}; `vlascope-latents ls` lists what there is"
        )
    return [e for e in episodes if e.episode.id not in excluded]


def _numbered(episodes: list[Episode]) -> list[Numbered]:
    found, counts = [], defaultdict(int)
    for episode in episodes:
        suite, task = episode.metadata.get("suite") or "", episode.metadata.get("task_id")
        task = NO_TASK if task is None else task
        index = episode.metadata.get("episode_index")
        found.append(Numbered(episode, suite, task, counts[suite, task] if index is None else index))
        counts[suite, task] += 1
    return found


def _of_tasks(store: LatentStore, episodes: list[Numbered], warnings: list[str]) -> list[Numbered]:
    """Those that an instruction can be predicted of; `warnings` get the names of the others."""

    def leave_out(gone: list[Numbered], why: str) -> None:
        if gone:
            names = listed((e.episode.id for e in gone), limit=5)
            warnings.append(f"{len(gone)} episode{'s' * (len(gone) > 1)} left out, {why}: {names}")

    nameless = [e for e in episodes if not _says_instruction(e.episode)]
    if len(nameless) == len(episodes):
        raise AnalysisError(
            f"{store.path}: no episode says what the policy was told, or its task's name: nothing to predict"
        )
    leave_out(nameless, "with neither an instruction nor a task's name")
    episodes = [e for e in episodes if _says_instruction(e.episode)]
    homeless = [e for e in episodes if e.task == NO_TASK]
    if 0 < len(homeless) < len(episodes):
        leave_out(homeless, "of no task where others have one (their metadata lack `task_id`)")
        episodes = [e for e in episodes if e.task != NO_TASK]
    return episodes


def _says_instruction(episode: Episode) -> bool:
    """Whether it says what the policy was told, be it nothing (an empty text), or has a task's name that can stand in."""
    return episode.metadata.get("instruction") is not None or bool(episode.metadata.get("task_name"))


def _of_suite(store: LatentStore, episodes: list[Numbered], query: EpisodeQuery) -> list[Numbered]:
    suites = sorted({e.suite for e in episodes})
    if query.suite is not None:
        episodes = [e for e in episodes if e.suite == query.suite]
        if not episodes:
            raise AnalysisError(f"{store.path}: suite {query.suite!r} is not there; found {listed(suites)}")
    elif query.task_range is not None and len(suites) > 1:
        raise AnalysisError(
            f"{store.path}: task numbers of several suites ({listed(suites)}): name one with --suite, or leave --task-range"
        )
    return episodes


def _within(number: int, bounds: Range | None) -> bool:
    return bounds is None or bounds[0] <= number < bounds[1]


def _missing(query: EpisodeQuery, found: set[tuple[int, int]], tasks: list[int], numbers: list[int]) -> str:
    """What an explicit range names and the store lacks, with what there is; empty where nothing is missing."""
    if query.task_range is not None:
        gone = [task for task in range(*query.task_range) if task not in tasks]
        if gone:
            return f"tasks {listed(gone)} are not there; found tasks {listed(tasks)} with episodes {listed(numbers)}"
    if query.episode_range is not None:
        asked = tasks if query.task_range is None else list(range(*query.task_range))
        gaps = {task: [n for n in range(*query.episode_range) if (task, n) not in found] for task in asked}
        texts = [f"task {task} lacks episodes {listed(gone)}" for task, gone in gaps.items() if gone]
        if texts:
            more = f" and {len(texts) - 5} tasks more" if len(texts) > 5 else ""
            return f"{'; '.join(texts[:5])}{more}; found tasks {listed(tasks)} with episodes {listed(numbers)}"
    return ""


def _same_model(store: LatentStore, episodes: list[Numbered]) -> None:
    used = {e.episode.run for e in episodes}
    prints = {run.name: run.model.get("fingerprint") for run in store.runs if run.name in used}
    if len(set(prints.values())) > 1:
        texts = [f"{name} ({fingerprint})" for name, fingerprint in prints.items()]
        raise AnalysisError(f"{store.path}: runs of different policies: {listed(texts)}: name one with --run-name")
