"""Which episodes of a store an analysis is about, and what to say where some that were asked for are missing."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

from vlascope_base.text import counted, listed, printable
from vlascope_latents.store import Episode, LatentStore
from vlascope_latents.store.labels import episode_labels

from vlascope_analysis.data.label_values import Value, label_values
from vlascope_analysis.data.questions import question_of
from vlascope_analysis.data.where import Where
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery, Range

NO_TASK = -1
"""The task of an episode that does not say one."""


@dataclasses.dataclass(frozen=True)
class Numbered:
    """An episode with its task (`NO_TASK` where it says none), its number within the task, and what is to be predicted of it.

    `value` is that of the label; None for the label `instruction`, whose texts `instruction_labels` takes from the frames.
    """

    episode: Episode
    suite: str
    task: int
    number: int
    value: Value | None = None


def choose_episodes(
    store: LatentStore, query: EpisodeQuery, label: str = "instruction", timesteps: Sequence[int] | None = None
) -> tuple[list[Numbered], list[str]]:
    """The episodes that a query asks for, and warnings.

    An episode without `episode_index` is numbered by its place among its task's, in order of run and id. Left out, and named
    in a warning, are episodes that do not say what is to be predicted (for `instruction` neither what the policy was told nor
    a task's name), and, where others say their task, those that do not (no `task_id`): nobody decided that they are a class
    beside the tasks. Where none has one, all are taken.

    Args:
        store: whose episodes.
        query: which.
        label: what is to be predicted.
        timesteps: frames whose annotations count, where the label is one; every captured frame unless told.

    Raises:
        AnalysisError: nothing matches, no episode has something to predict, part of an explicit range is missing, or episodes
            of different models, suites or prompt modes would mix; the message lists what there is.
    """
    query.check()
    where = None if query.where is None else Where.parse(query.where)
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
    episodes = _of_tasks(store, episodes, label, warnings)
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
    if where is not None:
        holds = where.chosen([episode_labels(e.episode) for e in episodes])
        episodes = [e for e, chosen in zip(episodes, holds, strict=True) if chosen]
    _same_prompts(store, episodes, where)
    episodes = _valued(episodes, label, timesteps, warnings)
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


def _of_tasks(store: LatentStore, episodes: list[Numbered], label: str, warnings: list[str]) -> list[Numbered]:
    """Those whose class somebody decided; `warnings` get the names of the others."""
    if label == "instruction":
        nameless = [e for e in episodes if not _says_instruction(e.episode)]
        if len(nameless) == len(episodes):
            raise AnalysisError(
                f"{store.path}: no episode says what the policy was told, or its task's name: nothing to predict"
            )
        _leave_out(nameless, "with neither an instruction nor a task's name", warnings)
        episodes = [e for e in episodes if _says_instruction(e.episode)]
    homeless = [e for e in episodes if e.task == NO_TASK]
    if 0 < len(homeless) < len(episodes):
        _leave_out(homeless, "of no task where others have one (their metadata lack `task_id`)", warnings)
        episodes = [e for e in episodes if e.task != NO_TASK]
    return episodes


def _leave_out(gone: list[Numbered], why: str, warnings: list[str]) -> None:
    if gone:
        names = listed((e.episode.id for e in gone), limit=5)
        warnings.append(f"{len(gone)} episode{'s' * (len(gone) > 1)} left out, {why}: {names}")


def _valued(
    episodes: list[Numbered], label: str, timesteps: Sequence[int] | None, warnings: list[str]
) -> list[Numbered]:
    """The episodes with the value of the label; `warnings` get the names of those without."""
    if label == "instruction":
        return episodes
    values = label_values([e.episode for e in episodes], label, timesteps)
    silent = [e for e, value in zip(episodes, values, strict=True) if value is None]
    _leave_out(silent, f"of which {question_of(label).it} is not known", warnings)
    return [dataclasses.replace(e, value=value) for e, value in zip(episodes, values, strict=True) if value is not None]


def _same_prompts(store: LatentStore, episodes: list[Numbered], where: Where | None) -> None:
    """Raises AnalysisError where episodes of several prompt modes would mix, unless the condition chose them."""
    if where is not None and "prompt_mode" in where.names:
        return
    modes = Counter(e.episode.metadata.get("prompt_mode") for e in episodes)
    known = sorted(str(mode) for mode in modes if mode is not None)
    if len(known) < 2:
        return
    counts = ", ".join(f"{printable(mode)} ({modes[mode]} episodes)" for mode in known)
    raise AnalysisError(
        f"{store.path}: episodes of several prompt modes, {counts}, which are different designs: choose with --where "
        f'"prompt_mode == \'{printable(known[0])}\'" or with a --campaign of one mode; --where "prompt_mode in {known}" takes '
        "them together"
    )


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
