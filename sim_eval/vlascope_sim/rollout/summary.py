"""Success rates by task and suite, with intervals, out of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.results import EpisodeResult, final_rows
from vlascope_sim.statistics import percentiles, wilson_interval


class LiftCounts(TypedDict):
    """Of the episodes that were told an object (`of`): in how many it was lifted by 5 cm before any other (`count`), with its
    interval, and in how many no object was lifted (`none_lifted`).
    """

    count: int
    of: int
    wilson_95: list[float] | None
    none_lifted: int


class Metrics(TypedDict):
    """Of a suite or a task; a rate, mean or percentile is None where nothing is done.

    `errors` are episodes that could not be run; they are in no rate. `latency_ms` and `model_ms` are percentiles over
    inferences. `frames` are those that the server committed, `dropped` those that it did not store.
    """

    episodes: int
    successes: int
    success_rate: float | None
    wilson_95: list[float] | None
    errors: int
    missing: int
    told_lifted_first: LiftCounts
    mean_steps: float | None
    mean_steps_of_successes: float | None
    latency_ms: dict[str, float] | None
    model_ms: dict[str, float] | None
    frames: int
    dropped: int


class Summary(TypedDict):
    """What `summary.json` holds: `name` is the suite's, `campaign` the campaign's id, `tasks` are by their numbers."""

    name: str
    campaign: str
    assets: list[str]
    render: str
    perturb: str
    prompt_mode: str
    conditions: str
    suite: Metrics
    tasks: dict[str, Metrics]


def summarise(campaign: Campaign, rows: Iterable[EpisodeResult]) -> Summary:
    """A summary of the episodes that are done."""
    final = final_rows(rows)
    planned = campaign.keys
    return {
        "name": campaign.suite,
        "campaign": campaign.id,
        "assets": sorted({row.assets for row in final}),
        "render": campaign.render,
        "perturb": campaign.perturb,
        "prompt_mode": campaign.prompt_mode,
        "conditions": campaign.conditions,
        "suite": _metrics(final, len(planned)),
        "tasks": {
            str(task): _metrics([row for row in final if row.task_id == task], sum(key.task == task for key in planned))
            for task in campaign.tasks
        },
    }


def headline(suite: str, rows: Iterable[EpisodeResult]) -> str:
    """A suite's success in one line."""
    done = [row for row in rows if row.status == "done"]
    wins = sum(bool(row.success) for row in done)
    if not done:
        return f"{suite}: no episode could be run"
    low, high = wilson_interval(wins, len(done))
    return f"{suite}: {wins} of {len(done)} episodes succeeded ({wins / len(done):.0%}, 95% interval {low:.0%} to {high:.0%})"


def _metrics(rows: list[EpisodeResult], planned: int) -> Metrics:
    done = [row for row in rows if row.status == "done"]
    wins = [row for row in done if row.success]
    told = [row for row in done if row.told_object is not None]
    obeyed = sum(row.lifted_first == row.told_object for row in told)
    return {
        "episodes": len(done),
        "successes": len(wins),
        "success_rate": len(wins) / len(done) if done else None,
        "wilson_95": list(wilson_interval(len(wins), len(done))) if done else None,
        "errors": sum(row.status == "error" for row in rows),
        "missing": planned - len(rows),
        "told_lifted_first": {
            "count": obeyed,
            "of": len(told),
            "wilson_95": list(wilson_interval(obeyed, len(told))) if told else None,
            "none_lifted": sum(row.lifted_first is None for row in told),
        },
        "mean_steps": _mean([row.steps for row in done]),
        "mean_steps_of_successes": _mean([row.steps for row in wins]),
        "latency_ms": percentiles([ms for row in done for ms in row.latency_ms]),
        "model_ms": percentiles([ms for row in done for ms in row.model_ms]),
        "frames": sum(row.frames or 0 for row in done),
        "dropped": sum(row.dropped or 0 for row in done),
    }


def _mean(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None
