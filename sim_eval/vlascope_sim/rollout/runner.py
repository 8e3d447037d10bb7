"""Runs a campaign: which episodes are missing, who runs them, what becomes of those that are lost, what is left on disk.

An episode whose worker died or hung, or whose server went away, is tried again as a new attempt;
after the last it is an `error`, never a failed episode.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import filelock
from vlascope_base.files import make_folders, replace_file, replace_json
from vlascope_base.provenance import machine, provenance

from vlascope_sim.environment.package import DECIDING_PACKAGES
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey
from vlascope_sim.rollout.campaign_file import CAMPAIGN_FILE, write_campaign
from vlascope_sim.rollout.episode import AssetsUsed, blank_result
from vlascope_sim.rollout.progress import CampaignProgress
from vlascope_sim.rollout.results import RESULT_FILE, EpisodeResult, ResultFile, final_rows, write_parquet
from vlascope_sim.rollout.summary import Summary, headline, summarise
from vlascope_sim.rollout.workers import Beat, Finished, Job, Lost, Refused, Workers

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A folder of results that is ready for more.

    Attributes:
        missing: episodes without a final row.
    """

    campaign: Campaign
    output: Path
    results: ResultFile
    missing: tuple[EpisodeKey, ...]


class CampaignFolder:
    """A folder of results, locked while this is entered.

    Raises:
        RolloutError: another process works in it, or it holds another campaign's results.
    """

    def __init__(self, campaign: Campaign, output: Path, *, retry_errors: bool = False):
        self._campaign, self._output, self._retry_errors = campaign, output, retry_errors

    def __enter__(self) -> Prepared:
        make_folders(self._output)
        self._lock = filelock.FileLock(self._output / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise RolloutError(f"{self._output}: another rollout works in this folder; wait for it to end") from None
        try:
            return self._prepare()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _prepare(self) -> Prepared:
        results = ResultFile(self._output / RESULT_FILE)
        missing = missing_episodes(self._campaign, self._output, results.rows, retry_errors=self._retry_errors)
        for folder, wanted in (
            ("videos", self._campaign.video != "none"),
            ("observations", self._campaign.save_observations),
        ):
            if wanted:
                (self._output / folder).mkdir(exist_ok=True)
        write_campaign(self._output / CAMPAIGN_FILE, self._campaign)
        return Prepared(self._campaign, self._output, results, missing)


def missing_episodes(
    campaign: Campaign, output: Path, rows: Iterable[EpisodeResult], *, retry_errors: bool = False
) -> tuple[EpisodeKey, ...]:
    """The episodes of a campaign that have no final row yet.

    Args:
        campaign: what they are part of.
        output: the folder of results, for messages.
        rows: every line of its results.
        retry_errors: errors are no final rows.

    Raises:
        RolloutError: the rows are of another campaign.
    """
    rows = list(rows)
    if others := {row.campaign for row in rows} - {campaign.id}:
        raise RolloutError(
            f"{output}: holds results of campaign {', '.join(sorted(others))}, this is {campaign.id}; "
            "choose another folder, or resume that one"
        )
    final = {row.key for row in final_rows(rows) if not (retry_errors and row.status == "error")}
    return tuple(key for key in campaign.keys if key not in final)


def run_campaign(
    prepared: Prepared,
    assets: AssetsUsed,
    make_workers: Callable[[], Workers],
    progress: CampaignProgress,
    server: Mapping[str, object],
) -> Summary:
    """Runs what is missing.

    Args:
        prepared: from `CampaignFolder`.
        assets: that scenes are built from.
        make_workers: starts what runs episodes.
        progress: told of everything.
        server: what the policy says of itself; kept beside the results.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        RolloutError: a job was refused, or nothing but losses came of many in a row; results so far are kept.
    """
    check_same(prepared.output, prepared.results.rows, assets, server)
    try:
        if prepared.missing:
            _write_provenance(prepared.output, assets, server)  # where nothing runs, that of what ran stays
            workers = make_workers()
            try:
                _run_jobs(prepared, assets, workers, progress)
            finally:
                workers.close()
    finally:
        summary = summarise(prepared.campaign, prepared.results.rows)
        write_parquet(prepared.output / "episodes.parquet", final_rows(prepared.results.rows))
        replace_json(prepared.output / "summary.json", summary)
        _write_figure(prepared, assets, server)
    return summary


def _run_jobs(prepared: Prepared, assets: AssetsUsed, workers: Workers, progress: CampaignProgress) -> None:
    campaign, results = prepared.campaign, prepared.results
    waiting = collections.deque(Job(key, results.attempts(key) + 1) for key in prepared.missing)
    first = {job.key: job.attempt for job in waiting}
    running, losses = 0, 0
    while waiting or running:
        while waiting and workers.idle():
            workers.submit(waiting.popleft())
            running += 1
        for event in workers.poll(_POLL_SECONDS):
            if isinstance(event, Beat):
                progress.beat(event)
                continue
            running -= 1
            if isinstance(event, Finished):
                losses = 0
                results.append(event.result)
                progress.finished(event.job, event.result)
            elif isinstance(event, Refused):
                raise RolloutError(event.reason)
            elif isinstance(event, Lost):
                losses += 1
                again = event.job.attempt - first[event.job.key] + 1 < campaign.attempts
                row = dataclasses.replace(
                    blank_result(campaign, assets, event.job.key, event.job.attempt),
                    status="lost" if again else "error",
                    reason=event.reason,
                    seconds=event.seconds,
                )
                results.append(row)
                progress.note(f"{row.name}, attempt {row.attempt}: {event.reason}; {'again' if again else 'given up'}")
                if again:
                    waiting.appendleft(Job(event.job.key, event.job.attempt + 1))
                else:
                    progress.finished(event.job, row)
                if losses >= 4 * campaign.attempts * campaign.workers:
                    raise RolloutError(f"{losses} attempts in a row were lost, the last because: {event.reason}")


def _write_figure(prepared: Prepared, assets: AssetsUsed, server: Mapping[str, object]) -> None:
    from vlascope_sim.rollout.figures import results_figure, save_figure

    campaign, rows = prepared.campaign, final_rows(prepared.results.rows)
    if not rows:
        return
    below = [
        f"policy {server.get('checkpoint')} ({str(server.get('fingerprint'))[:12]})",
        f"{assets.kind} assets, rendering {campaign.render}",
        campaign.conditions or "scenes and instructions as they come",
        f"seed {campaign.seed}, {campaign.replan_steps} actions a chunk, at most {campaign.step_limit} steps",
    ]
    caution = (
        "" if assets.kind == "official" else " Results on stand-in assets say nothing of LIBERO's published scores."
    )
    figure = results_figure(rows, headline(campaign.suite, rows), f"{'; '.join(below)}.{caution}")
    save_figure(figure, prepared.output / "summary.png")


def check_same(output: Path, rows: Sequence[EpisodeResult], assets: AssetsUsed, server: Mapping[str, object]) -> None:
    """One folder holds results of one policy with one set of assets.

    Raises:
        RolloutError: the rows are of others.
    """
    for what, found, now in (
        ("policy", {row.fingerprint for row in rows if row.fingerprint}, server.get("fingerprint")),
        ("assets", {row.assets_hash for row in rows}, assets.hash),
    ):
        if found and now not in found:
            raise RolloutError(
                f"{output}: its results are of {what} {', '.join(sorted(found))}, this would be {now}; "
                "use that, or choose another folder"
            )


def _write_provenance(output: Path, assets: AssetsUsed, server: Mapping[str, object]) -> None:
    made_with = provenance(*DECIDING_PACKAGES)
    record = {
        "versions": made_with["versions"],
        "git": made_with["git_revision"],
        "machine": machine(),
        "assets": {"kind": assets.kind, "hash": assets.hash, "folder": str(assets.folder)},
        "server": server,
    }
    # a server may say of itself what JSON has no word for
    replace_file(output / "provenance.json", json.dumps(record, indent=2, default=str) + "\n")
