"""Campaigns beside each other: successes by task, and paired differences to the first one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlascope_base.files import make_folders, replacing
from vlascope_base.text import counted, listed

from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.campaign_file import CAMPAIGN_FILE, read_campaign
from vlascope_sim.rollout.results import RESULT_FILE, EpisodeResult, final_rows, read_results
from vlascope_sim.statistics import paired_interval, wilson_interval

ALL = "all"
"""The task of a row over all tasks."""

_DECIDING = (
    "seed",
    "prompt_mode",
    "prompts",
    "perturb",
    "move_cm",
    "render",
    "replan_steps",
    "step_limit",
    "settle_steps",
    "image_size",
)
"""What of a campaign decides its episodes, beside the policy."""

_Scene = tuple[str, int, int]
_Key = tuple[str, int, int, int]


@dataclasses.dataclass(frozen=True)
class Folder:
    """A campaign's results.

    Attributes:
        name: the folder, as it was given.
        campaign: what it is.
        rows: of the episodes that ended, each once.
    """

    name: str
    campaign: Campaign
    rows: tuple[EpisodeResult, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One campaign in one task.

    Attributes:
        task: its number, or `all`; `task_name`: its name, empty for `all`.
        campaign: the folder as it was given; `campaign_id`: its id.
        episodes: those that were done; `errors`: those that could not be run, which are in no rate.
        successes, success_rate, wilson_low, wilson_high: of them, with the 95 % Wilson interval; None where no episode is done.
        in_common: episodes that this campaign and the first have both done; None for the first.
        only_first, only_this: those of them in which one succeeded and the other did not.
        difference, difference_low, difference_high: of the success rates over the episodes in common, this minus the first,
            with the 95 % interval (`paired_interval`); None where there are none.
        told_apart: whether the interval leaves out 0.
    """

    task: str
    task_name: str
    campaign: str
    campaign_id: str
    episodes: int
    errors: int
    successes: int
    success_rate: float | None
    wilson_low: float | None
    wilson_high: float | None
    in_common: int | None = None
    only_first: int | None = None
    only_this: int | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    told_apart: bool | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows task by task, those over all tasks last, and what a reader should know before believing them."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def read_folder(path: Path) -> Folder:
    """The campaign whose results lie in a folder.

    Raises:
        RolloutError: it holds no campaign, or no episode of it has ended.
    """
    if not (path / CAMPAIGN_FILE).is_file():
        raise RolloutError(f"{path}: expected a folder of rollouts, found no {CAMPAIGN_FILE} in it")
    rows = final_rows(read_results(path / RESULT_FILE))
    if not any(row.status == "done" for row in rows):
        raise RolloutError(f"{path}: no episode is done; `vlascope-sim rollout --resume {path}` goes on")
    return Folder(str(path), read_campaign(path / CAMPAIGN_FILE), tuple(rows))


def compare(folders: Sequence[Folder]) -> Comparison:
    """The table of some campaigns, each compared with the first.

    Raises:
        RolloutError: one of them has no episode in common with the first.
    """
    first = folders[0]
    for other in folders[1:]:
        if not _successes(first.rows).keys() & _successes(other.rows).keys():
            raise RolloutError(
                f"{other.name}: has no episode in common with {first.name} (same suite, task, episode and repeat): "
                f"{_which(other)} here, {_which(first)} there"
            )
    tasks = sorted({(row.task_id, row.task_name) for folder in folders for row in folder.rows})
    rows = []
    for number, name in tasks:
        of_task = [dataclasses.replace(f, rows=tuple(r for r in f.rows if r.task_id == number)) for f in folders]
        rows += [_row(str(number), name, folder, None if k == 0 else of_task[0]) for k, folder in enumerate(of_task)]
    rows += [_row(ALL, "", folder, None if k == 0 else first) for k, folder in enumerate(folders)]
    return Comparison(tuple(rows), tuple(_warnings(folders)))


def write_table(path: Path, rows: Iterable[Row], *, csv: bool) -> None:
    """Writes the table as CSV or Parquet, whole or not at all; what is unknown is empty."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(f.name, kinds[str(f.type).partition(" ")[0]]) for f in dataclasses.fields(Row)])
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    make_folders(path.parent)
    with replacing(path) as partial:
        if csv:
            pa_csv.write_csv(table, partial)
        else:
            pq.write_table(table, partial)


def _row(task: str, name: str, folder: Folder, first: Folder | None) -> Row:
    done = _successes(folder.rows)
    wins = sum(done.values())
    low, high = wilson_interval(wins, len(done)) if done else (None, None)
    row = Row(
        task=task,
        task_name=name,
        campaign=folder.name,
        campaign_id=folder.campaign.id,
        episodes=len(done),
        errors=sum(row.status == "error" for row in folder.rows),
        successes=wins,
        success_rate=wins / len(done) if done else None,
        wilson_low=low,
        wilson_high=high,
    )
    return row if first is None else _with_difference(row, _successes(first.rows), done)


def _with_difference(row: Row, first: dict[_Key, bool], this: dict[_Key, bool]) -> Row:
    keys = sorted(first.keys() & this.keys())
    if not keys:
        return dataclasses.replace(row, in_common=0)
    before, now = [first[key] for key in keys], [this[key] for key in keys]
    scenes: list[_Scene] = [key[:3] for key in keys]
    low, high = paired_interval(now, before, scenes)
    pairs = list(zip(before, now, strict=True))
    return dataclasses.replace(
        row,
        in_common=len(keys),
        only_first=pairs.count((True, False)),
        only_this=pairs.count((False, True)),
        difference=(sum(now) - sum(before)) / len(keys),
        difference_low=low,
        difference_high=high,
        told_apart=not low <= 0 <= high,
    )


def _successes(rows: Iterable[EpisodeResult]) -> dict[_Key, bool]:
    """Whether each episode that is done succeeded."""
    done = (row for row in rows if row.status == "done")
    return {(row.suite, row.task_id, row.episode_index, row.noise_index): bool(row.success) for row in done}


def _which(folder: Folder) -> str:
    keys = _successes(folder.rows)
    suites, tasks, episodes, noises = (listed(sorted({key[k] for key in keys})) for k in range(4))
    return f"{suites} tasks {tasks} episodes {episodes} repeats {noises}"


def _warnings(folders: Sequence[Folder]) -> Iterable[str]:
    """What differs between campaigns that are compared, beside their policies."""
    for name in _DECIDING:
        yield from _differing(name, [(f.name, getattr(f.campaign, name)) for f in folders])
    for name in ("assets", "assets_hash"):
        yield from _differing(name, [(f.name, listed(sorted({getattr(r, name) for r in f.rows}))) for f in folders])
    for folder in folders:
        ended = {(row.task_id, row.episode_index, row.noise_index) for row in folder.rows}
        if missing := len(folder.campaign.keys) - len(ended):
            of = counted(len(folder.campaign.keys), "episode")
            yield f"{folder.name}: {missing} of its {of} {'has' if missing == 1 else 'have'} not been run yet"


def _differing(name: str, values: list[tuple[str, object]]) -> Iterable[str]:
    if any(value != values[0][1] for _, value in values):
        shown = ", ".join(f"{_short(value)} in {folder}" for folder, value in values)
        yield f"{name} differs: {shown}: the campaigns differ in more than their policies"


def _short(value: object) -> str:
    """A value in a sentence. What each task is told is too much for one; `campaign.yaml` has it."""
    if isinstance(value, dict):
        return f"{counted(len(value), 'text')} of its own" if value else "none"
    return repr(value)
