"""What `vlascope-sim rollout` does with a campaign: checks, cost, workers, the last words."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

from vlascope_base.command import say_configuration
from vlascope_base.text import counted, wrapped

from vlascope_sim.assets import resolve_assets
from vlascope_sim.assets.check import failures
from vlascope_sim.commands.policy_check import ServedPolicy, ask_policies
from vlascope_sim.errors import SimulationError
from vlascope_sim.processes import usable_cores
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.campaign_file import CAMPAIGN_FILE
from vlascope_sim.rollout.cost import Cost, estimate
from vlascope_sim.rollout.episode import AssetsUsed
from vlascope_sim.rollout.progress import CampaignProgress
from vlascope_sim.rollout.results import RESULT_FILE, final_rows, read_results
from vlascope_sim.rollout.runner import CampaignFolder, check_same, missing_episodes, run_campaign
from vlascope_sim.rollout.spawned import SpawnedWorkers
from vlascope_sim.rollout.summary import LiftCounts, Metrics, Summary
from vlascope_sim.rollout.worker import WorkerSetup

log = logging.getLogger(__name__)


def run_rollout(
    campaign: Campaign,
    output: Path,
    *,
    api_key: str | None,
    dry_run: bool = False,
    deterministic_check: bool = False,
    retry_errors: bool = False,
) -> int:
    """Runs a campaign, or says what it takes.

    Returns:
        0, or 1 where episodes ended as errors.

    Raises:
        SimulationError, RolloutError, vlascope_client.PolicyClientError: it cannot run.
    """
    assets = usable_assets(campaign)
    policy = ask_policies(campaign, api_key, deterministic_check=deterministic_check)
    _warn_of_training(campaign, assets, policy.metadata)
    if dry_run:
        rows = read_results(output / RESULT_FILE)
        check_same(output, rows, assets, policy.metadata)
        missing = missing_episodes(campaign, output, rows, retry_errors=retry_errors)
        _say(f"assets {assets.kind} in {assets.folder}; policy {policy.metadata['checkpoint']}")
        _say(_cost(campaign, len(missing), policy))
        return 0
    with CampaignFolder(campaign, output, retry_errors=retry_errors) as folder:
        say_configuration(output / CAMPAIGN_FILE)
        _say(_cost(campaign, len(folder.missing), policy))
        done = [row for row in final_rows(folder.results.rows) if row.key not in folder.missing]
        try:
            with CampaignProgress(len(campaign.keys), done, conditions=campaign.conditions) as progress:
                answering = dataclasses.replace(campaign, servers=policy.servers)
                summary = run_campaign(
                    folder, assets, lambda: _workers(answering, assets, output, api_key), progress, policy.metadata
                )
        except BaseException:
            left = f"results so far are in {output}; `vlascope-sim rollout --resume {output}` continues"
            print(wrapped(left, sys.stderr), file=sys.stderr)
            raise
    _print_summary(summary, output, campaign)
    if dropped := summary["suite"]["dropped"]:
        log.warning(
            "the server dropped %s: its queue was full; `vlascope-server serve --on-full block` waits",
            counted(dropped, "frame"),
        )
    return 1 if summary["suite"]["errors"] else 0


def usable_assets(campaign: Campaign) -> AssetsUsed:
    """The assets to build scenes from.

    Raises:
        SimulationError: there are none, or files are missing; the message names them.
    """
    found = resolve_assets(campaign.assets)
    if found.kind == "stand-in":  # whole by their making, and checked task by task
        unfit = failures(campaign.suite, found.hash)
        for line in unfit[:3]:
            log.warning("assets: %s", line)
        if unfit[3:]:
            log.warning("assets: and %d more; see `vlascope-sim assets`", len(unfit) - 3)
    elif missing := found.missing(campaign.suite):
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise SimulationError(f"{found.path}: files of {campaign.suite} are missing: {', '.join(missing[:8])}{more}")
    return AssetsUsed(found.path, found.kind, found.hash)


def _workers(campaign: Campaign, assets: AssetsUsed, output: Path, api_key: str | None) -> SpawnedWorkers:
    setups = []
    for worker in range(campaign.workers):
        own = worker % len(campaign.servers)
        servers = campaign.servers[own:] + campaign.servers[:own]
        setups.append(WorkerSetup(campaign, assets, output, servers, api_key, logging.getLogger().level))
    return SpawnedWorkers(setups, hang_seconds=campaign.hang_seconds, build_seconds=campaign.build_seconds)


def _cost(campaign: Campaign, episodes: int, policy: ServedPolicy) -> Cost:
    return estimate(
        campaign,
        episodes,
        policy.frame_bytes,
        cores=usable_cores(),
        servers=len(policy.servers),
        latency_ms=policy.latency_ms,
        deterministic=bool(policy.metadata.get("deterministic")),
    )


def _warn_of_training(campaign: Campaign, assets: AssetsUsed, policy: dict[str, Any]) -> None:
    ours = {"render": campaign.render, "assets": assets.kind}
    for name, value in ours.items():
        trained = policy.get("trained_on", {}).get(name)
        if trained is not None and trained != value:
            log.warning("the policy was trained on %s %r, this campaign runs on %r", name, trained, value)
    if assets.kind != "official":
        log.warning("assets: %s; results say nothing of LIBERO's published scores", assets.kind)


def _print_summary(summary: Summary, output: Path, campaign: Campaign) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    conditions = f", {campaign.conditions}" if campaign.conditions else ""
    title = f"{campaign.suite}: assets {', '.join(summary['assets']) or '-'}, rendering {campaign.render}{conditions}"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = ["task", "episodes", "success", "95% interval", "steps", "policy p50 / p95 ms", "frames", "errors"]
    shows_told = bool(campaign.conditions) and summary["suite"]["told_lifted_first"]["of"]
    for column in columns + (["told object lifted first"] if shows_told else []):
        # at 80 columns cells wrap, and no word is cut
        widest = max(map(len, column.split()))
        table.add_column(column, justify="left" if column == "task" else "right", min_width=widest, overflow="fold")
    for name, metrics in [*summary["tasks"].items(), ("all", summary["suite"])]:
        table.add_row(name, *_cells(metrics), *([_told_cell(metrics["told_lifted_first"])] if shows_told else []))
    Console().print(table)
    if summary["suite"]["frames"]:
        _say(f"stored  as campaign {campaign.id}")
    _say(f"results {output}/episodes.jsonl, episodes.parquet, summary.json")
    _say(f"figure  {output}/summary.png")
    if campaign.video != "none":
        _say(f"videos  {output}/videos/")
    if campaign.save_observations:
        _say(f"seen    {output}/observations/")


def _say(text: object) -> None:
    print(wrapped(str(text), sys.stdout))


def _cells(metrics: Metrics) -> tuple[str, ...]:
    interval, latency, steps = metrics["wilson_95"], metrics["latency_ms"], metrics["mean_steps"]
    return (
        str(metrics["episodes"]),
        "-" if metrics["success_rate"] is None else f"{metrics['successes']} ({metrics['success_rate']:.0%})",
        f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else "-",
        "-" if steps is None else f"{steps:.0f}",
        f"{latency['p50']:.0f} / {latency['p95']:.0f}" if latency else "-",
        str(metrics["frames"]),
        str(metrics["errors"]),
    )


def _told_cell(told: LiftCounts) -> str:
    return f"{told['count']} of {told['of']} ({told['count'] / told['of']:.0%})" if told["of"] else "-"
