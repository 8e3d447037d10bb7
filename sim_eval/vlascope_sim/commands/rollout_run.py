"""What `vlascope-sim rollout` does with a campaign: checks, cost, workers, the last words. Knows nothing of options."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_client import PolicyClient

from vlascope_sim.assets import resolve_assets
from vlascope_sim.assets.checked import failures
from vlascope_sim.environment.errors import SimulationError
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.cost import Cost, estimate
from vlascope_sim.rollout.episode import AssetsUsed
from vlascope_sim.rollout.errors import RolloutError
from vlascope_sim.rollout.progress import CampaignProgress
from vlascope_sim.rollout.results import final_rows
from vlascope_sim.rollout.runner import CampaignFolder, run_campaign
from vlascope_sim.rollout.session import open_client
from vlascope_sim.rollout.spawned import SpawnedWorkers
from vlascope_sim.rollout.worker import WorkerSetup

log = logging.getLogger(__name__)

_FIRST_CONTACT_SECONDS = 5.0


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
    print(json.dumps({"campaign": dataclasses.asdict(campaign)}), file=sys.stderr)
    assets = usable_assets(campaign)
    policies = [
        ask_policy(server, campaign, api_key, deterministic_check=deterministic_check) for server in campaign.servers
    ]
    policy = policies[0]
    for server, other in zip(campaign.servers, policies, strict=True):
        if other["fingerprint"] != policy["fingerprint"]:
            raise RolloutError(
                f"{server}: serves policy {other['fingerprint']}, {campaign.servers[0]} serves {policy['fingerprint']}; "
                "one campaign has one policy"
            )
    _warn_of_training(campaign, assets, policy)
    if dry_run:
        print(f"assets {assets.kind} in {assets.folder}; policy {policy['checkpoint']}")
        print(_cost(campaign, len(campaign.keys), policy))
        return 0
    with CampaignFolder(campaign, output, retry_errors=retry_errors) as folder:
        print(_cost(campaign, len(folder.missing), policy))
        total, done = (
            len(campaign.keys),
            [row for row in final_rows(folder.results.rows) if row.key not in folder.missing],
        )
        try:
            with CampaignProgress(total, done) as progress:
                summary = run_campaign(
                    folder, assets, lambda: _workers(campaign, assets, output, api_key), progress, policy
                )
        except BaseException:
            print(
                f"results so far are in {output}; `vlascope-sim rollout --resume {output}` continues", file=sys.stderr
            )
            raise
    _print_summary(summary, output, campaign)
    if dropped := summary["suite"]["dropped"]:
        log.warning(
            "the server dropped %d frames: its queue was full; `vlascope-server serve --on-full block` waits", dropped
        )
    return 1 if summary["suite"]["errors"] else 0


def usable_assets(campaign: Campaign) -> AssetsUsed:
    """The assets to build scenes from.

    Raises:
        SimulationError: there are none, or files are missing; the message names them.
    """
    found = resolve_assets(Path(campaign.assets) if campaign.assets else None)
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


def ask_policy(server: str, campaign: Campaign, api_key: str | None, *, deterministic_check: bool) -> dict[str, Any]:
    """What a server says of itself.

    Raises:
        RolloutError: its chunks are too short, or the same request does not get the same bits where that is asked.
        vlascope_client.PolicyClientError: it cannot be reached, or is not what is needed.
    """
    with open_client(server, campaign, api_key, patience=_FIRST_CONTACT_SECONDS) as client:
        spec = client.metadata
        if campaign.replan_steps > spec.action_horizon:
            raise RolloutError(
                f"replan_steps {campaign.replan_steps}: {server} has chunks of {spec.action_horizon} actions; use at most that"
            )
        if deterministic_check:
            _check_determinism(client, server)
        return dict(client.raw_metadata)


def _check_determinism(client: PolicyClient, server: str) -> None:
    if not client.metadata.deterministic:
        raise RolloutError(f"{server}: does not promise equal bits for equal requests; serve with `--deterministic`")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    observation = {
        "observation/image": pictures[0],
        "observation/wrist_image": pictures[1],
        "observation/state": rng.standard_normal(8),
        "prompt": "pick up the bowl",
    }
    first, second = (client.infer(observation, seed=1).actions for _ in range(2))
    if first.tobytes() != second.tobytes():
        raise RolloutError(
            f"{server}: the same request twice gave actions that differ by up to {np.abs(first - second).max():g}"
        )


def _workers(campaign: Campaign, assets: AssetsUsed, output: Path, api_key: str | None) -> SpawnedWorkers:
    setups = [
        WorkerSetup(
            campaign, assets, output, campaign.servers[k % len(campaign.servers)], api_key, logging.getLogger().level
        )
        for k in range(campaign.workers)
    ]
    return SpawnedWorkers(setups, hang_seconds=campaign.hang_seconds)


def _cost(campaign: Campaign, episodes: int, policy: dict[str, Any]) -> Cost:
    own_spec = campaign.capture_spec is not None
    return estimate(campaign, episodes, None if own_spec else policy["capture"]["frame_bytes"])


def _warn_of_training(campaign: Campaign, assets: AssetsUsed, policy: dict[str, Any]) -> None:
    ours = {"render": campaign.render, "assets": assets.kind}
    for name, value in ours.items():
        trained = policy.get("trained_on", {}).get(name)
        if trained is not None and trained != value:
            log.warning("the policy was trained on %s %r, this campaign runs on %r", name, trained, value)
    if assets.kind != "official":
        log.warning("assets: %s; results say nothing of LIBERO's published scores", assets.kind)


def _print_summary(summary: dict[str, Any], output: Path, campaign: Campaign) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{campaign.suite}: assets {', '.join(summary['assets']) or '-'}, rendering {campaign.render}")
    for column in ("task", "episodes", "success", "95% interval", "steps", "policy p50 / p95 ms", "frames", "errors"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, figures in [*summary["tasks"].items(), ("all", summary["suite"])]:
        table.add_row(name, *_cells(figures))
    Console().print(table)
    print(f"results {output}/episodes.jsonl, episodes.parquet, summary.json")
    if campaign.video != "none":
        print(f"videos  {output}/videos/")
    if campaign.save_observations:
        print(f"seen    {output}/observations/")


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    interval, latency, steps = figures["wilson_95"], figures["latency_ms"], figures["mean_steps"]
    return (
        str(figures["episodes"]),
        "-" if figures["success_rate"] is None else f"{figures['successes']} ({figures['success_rate']:.0%})",
        f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else "-",
        "-" if steps is None else f"{steps:.0f}",
        f"{latency['p50']:.0f} / {latency['p95']:.0f}" if latency else "-",
        str(figures["frames"]),
        str(figures["errors"]),
    )
