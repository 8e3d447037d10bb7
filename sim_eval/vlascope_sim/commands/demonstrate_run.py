"""What `vlascope-sim demonstrate` does with its options: plan, cost, dataset, the last words. Knows nothing of the expert."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import filelock
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from vlascope_datasets import DatasetError, DatasetWriter

from vlascope_sim.assets import AssetSet, resolve_assets
from vlascope_sim.commands.demonstrate import Demonstrate
from vlascope_sim.commands.ranges import parse_numbers
from vlascope_sim.demonstrations.collect import collect
from vlascope_sim.demonstrations.dataset import add, open_dataset
from vlascope_sim.demonstrations.noise import NO_NOISE, NoiseOptions
from vlascope_sim.demonstrations.plan import Demonstration, plan
from vlascope_sim.demonstrations.records import (
    LIST_FILE,
    SUMMARY_FILE,
    DemonstrationList,
    append_run,
    summarise,
)
from vlascope_sim.environment import SimulationError, suite_tasks
from vlascope_sim.rollout.provenance import git_revision, machine, versions

_FRAMES, _SECONDS_A_FRAME, _SECONDS_A_STEP = 90, 0.03, 0.012
"""Of a demonstration, measured on stand-in assets; a cost is an estimate."""
_COMPRESSED = 0.14
"""Bytes of a PNG by those of its picture; stand-in assets have plain surfaces."""


def run_demonstrate(options: Demonstrate) -> int:
    """Makes what the options ask for.

    Returns:
        0, or 1 where nothing has succeeded.

    Raises:
        SimulationError: it cannot be made; the message is one line.
    """
    try:
        wanted = _planned(options)
        assets = resolve_assets(options.assets)
        print(_cost(options, len(wanted)))
        if options.dry_run:
            print(f"assets {assets.kind} {assets.hash} in {assets.path}")
            return 0
        return _collect(options, wanted, assets)
    except DatasetError as error:
        raise SimulationError(str(error)) from error


def _planned(options: Demonstrate) -> tuple[Demonstration, ...]:
    for name, least in ("workers", 1), ("image_size", 16), ("max_steps", 1), ("noise_bursts", 0):
        value = getattr(options, name)
        if value is not None and value < least:
            raise SimulationError(f"{name} {value}: expected at least {least}")
    if not options.noise_sigmas or not all(sigma >= 0 for sigma in options.noise_sigmas):
        raise SimulationError(f"noise_sigmas {options.noise_sigmas}: expected one or more, each at least 0")
    noise = NoiseOptions(options.noise_sigmas, options.noise_bursts) if options.noise else NO_NOISE
    everything = tuple(range(len(suite_tasks(options.suite))))
    return plan(
        options.suite,
        everything if options.tasks is None else parse_numbers(options.tasks, "tasks"),
        parse_numbers(options.episodes, "episodes"),
        targets=options.targets,
        perturb=options.perturb,
        move_cm=options.move_cm if options.perturb in ("move", "both") else 0.0,
        noise=noise,
        max_steps=options.max_steps,
        seed=options.seed,
    )


def _cost(options: Demonstrate, count: int) -> str:
    frames = count * min(_FRAMES, options.max_steps or _FRAMES)
    seconds = frames * (_SECONDS_A_FRAME if options.record else _SECONDS_A_STEP) / options.workers
    pixels = 2 * options.image_size**2 * 3
    size = f", about {frames * pixels * _COMPRESSED / 1e6:.0f} MB" if options.record else ""
    return f"{count} demonstrations, about {frames} frames{size}, {seconds / 60:.0f} minutes with {options.workers} workers"


def _collect(options: Demonstrate, wanted: tuple[Demonstration, ...], assets: AssetSet) -> int:
    folder = options.output
    if options.resume and not folder.is_dir():
        raise SimulationError(f"{folder}: no such folder to go on with; leave `--resume` out")
    with _writer(options) as writer:
        listed = DemonstrationList(folder, 0 if writer is None else len(writer))
        # a failure that was left out is not there to be kept: it is made again
        done = listed.done - (listed.left_out if options.keep_failures and writer is not None else set())
        missing = [demonstration for demonstration in wanted if demonstration.id not in done]
        provenance = _provenance(options, assets)
        run = append_run(folder, provenance)
        begun, frames_made = time.monotonic(), 0
        made = collect(
            missing, assets.path, workers=options.workers, render=options.render, image_size=options.image_size,
            record=options.record,
        )  # fmt: skip
        try:
            with contextlib.closing(made), _progress() as bar:
                shown = bar.add_task("demonstrations", total=len(missing), figures="")
                for number, (demonstration, outcome, frames) in enumerate(made, 1):
                    keep = frames is not None and (outcome.success or options.keep_failures)
                    listed.append(demonstration, outcome, run, len(writer) if writer is not None and keep else None)
                    if writer is not None and keep and frames is not None:
                        add(writer, frames, demonstration.goal.instruction)
                    frames_made += outcome.frames
                    won = sum(row["outcome"]["success"] for row in listed.rows[-number:])
                    bar.update(shown, advance=1, figures=f"{won}/{number} succeeded")
        finally:
            summary = summarise(listed.rows) | {"last_run": provenance}
            (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2, default=str) + "\n")
        kept = 0 if writer is None else len(writer)
    _print_summary(summary, options)
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(missing)} demonstrations, {frames_made} frames in {minutes:.1f} minutes")
    print(f"{kept} episodes in {folder}" if options.record else f"results {folder / LIST_FILE}")
    return 0 if summary["all"]["succeeded"] or (options.keep_failures and kept) else 1


@contextlib.contextmanager
def _writer(options: Demonstrate) -> Iterator[DatasetWriter | None]:
    """The dataset, or None where none is made; the folder is this process's until the end."""
    folder = options.output
    if options.record:
        with open_dataset(folder, options.image_size, options.dataset_version, resume=options.resume) as writer:
            yield writer
        return
    if (folder / LIST_FILE).exists() and not options.resume:
        raise SimulationError(f"{folder}: holds results already; `--resume` goes on with them")
    if (folder / "meta").exists():
        raise SimulationError(f"{folder}: holds a dataset; without `--record`, choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            yield None
    except filelock.Timeout:
        raise SimulationError(f"{folder}: another process works in it; wait for it to end") from None


def _provenance(options: Demonstrate, assets: AssetSet) -> dict[str, Any]:
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": dataclasses.asdict(options),
        "assets": {"kind": assets.kind, "hash": assets.hash},
        "versions": versions(),
        "git": git_revision(),
        "machine": machine(),
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(file=sys.stderr),
    )


def _print_summary(summary: dict[str, Any], options: Demonstrate) -> None:
    table = Table(
        title=f"{summary['last_run']['assets']['kind']} assets, perturbation {options.perturb}, noise {options.noise}"
    )
    table.add_column("goal", min_width=34)
    for column in ("tried", "succeeded", "95%", "lifted first", "steps", "grasped again", "no room"):
        table.add_column(column, justify="right")
    for name, figures in [*summary["goals"].items(), ("all", summary["all"])]:
        low, high = figures["wilson_95"]
        steps = figures["mean_steps_of_successes"]
        table.add_row(
            escape(name),
            str(figures["tried"]),
            str(figures["succeeded"]),
            f"{100 * low:.0f}-{high:.0%}",
            str(figures["told_object_lifted_first"]),
            "-" if steps is None else f"{steps:.0f}",
            str(figures["needed_another_grasp"]),
            str(figures["no_room"]),
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
