"""What `vlascope-sim demonstrate` does with its options: plan, cost, dataset, the last words."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vlascope_base.command import say_configuration
from vlascope_base.files import make_folders, replace_json
from vlascope_base.options import record_of
from vlascope_base.progress import progress_bars
from vlascope_base.provenance import machine, now, provenance
from vlascope_base.text import counted, readable_duration, wrapped
from vlascope_datasets import DatasetError, DatasetWriter
from vlascope_datasets.info import COLLECTIONS

from vlascope_sim.assets import AssetSet, resolve_assets
from vlascope_sim.demonstrations.collect import collect
from vlascope_sim.demonstrations.dataset import add, open_dataset
from vlascope_sim.demonstrations.options import DemonstrationOptions
from vlascope_sim.demonstrations.plan import Demonstration, plan
from vlascope_sim.demonstrations.records import (
    LIST_FILE,
    SUMMARY_FILE,
    DemonstrationList,
    DemonstrationSummary,
    append_run,
    summarise,
)
from vlascope_sim.environment.package import DECIDING_PACKAGES
from vlascope_sim.errors import SimulationError
from vlascope_sim.processes import usable_cores

_FRAMES, _SECONDS_A_FRAME, _SECONDS_A_STEP = 90, 0.03, 0.012
"""Of a demonstration, measured on stand-in assets; a cost is an estimate."""
_COMPRESSED = 0.14
"""Bytes of a PNG by those of its picture; stand-in assets have plain surfaces."""


def run_demonstrate(options: DemonstrationOptions) -> int:
    """Makes what the options ask for.

    Returns:
        0, or 1 where nothing has succeeded.

    Raises:
        SimulationError: it cannot be made; the message is one line.
    """
    try:
        wanted = _planned(options)
        assets = resolve_assets(options.assets)
        _say(_cost(options, len(wanted)))
        if options.dry_run:
            _say(f"assets {assets.kind} {assets.hash} in {assets.path}")
            return 0
        return _collect(options, wanted, assets)
    except DatasetError as error:
        raise SimulationError(str(error)) from error


def _planned(options: DemonstrationOptions) -> tuple[Demonstration, ...]:
    for name, least in ("workers", 1), ("image_size", 16):
        if (value := getattr(options, name)) < least:
            raise SimulationError(f"{name} {value}: expected at least {least}")
    return plan(options)


def _cost(options: DemonstrationOptions, count: int) -> str:
    frames = count * min(_FRAMES, options.max_steps or _FRAMES)
    cores = usable_cores()
    seconds = frames * (_SECONDS_A_FRAME if options.record else _SECONDS_A_STEP) / min(options.workers, cores)
    pixels = 2 * options.image_size**2 * 3
    size = f", about {frames * pixels * _COMPRESSED / 1e6:.0f} MB" if options.record else ""
    workers = counted(options.workers, "worker")
    if options.workers > cores:
        workers += f" on this machine's {counted(cores, 'core')}"
    made = f"{counted(count, 'demonstration')}, about {counted(frames, 'frame')}{size}"
    return f"{made}, {'about ' if seconds >= 60 else ''}{readable_duration(seconds)} with {workers}" if count else made


def _collect(options: DemonstrationOptions, wanted: tuple[Demonstration, ...], assets: AssetSet) -> int:
    folder = options.output
    if options.resume and not folder.is_dir():
        raise SimulationError(f"{folder}: no such folder to go on with; leave `--resume` out")
    with _writer(options) as writer:
        listed = DemonstrationList(folder, 0 if writer is None else len(writer))
        # a failure that was left out is not there to be kept: it is made again
        done = listed.done - (listed.left_out if options.keep_failures and writer is not None else set())
        missing = [demonstration for demonstration in wanted if demonstration.id not in done]
        made_with = _provenance(options, assets)
        run = append_run(folder, made_with)
        say_configuration(folder / COLLECTIONS)
        begun, frames_made = time.monotonic(), 0
        made = collect(
            missing, assets.path, workers=options.workers, render=options.render, image_size=options.image_size,
            record=options.record,
        )  # fmt: skip
        try:
            with contextlib.closing(made), progress_bars(field="metrics") as bar:
                shown = bar.add_task("demonstrations", total=len(missing), metrics="")
                for number, (demonstration, outcome, frames) in enumerate(made, 1):
                    keep = frames is not None and (outcome.success or options.keep_failures)
                    listed.append(demonstration, outcome, run, len(writer) if writer is not None and keep else None)
                    if writer is not None and keep and frames is not None:
                        add(writer, frames, demonstration.goal.instruction)
                    frames_made += outcome.frames
                    won = sum(row["outcome"]["success"] for row in listed.rows[-number:])
                    bar.update(shown, advance=1, metrics=f"{won}/{number} succeeded")
        finally:
            summary = summarise(listed.rows)
            replace_json(folder / SUMMARY_FILE, {**summary, "last_run": made_with})
        kept = 0 if writer is None else len(writer)
    _print_summary(summary, options, assets)
    took = readable_duration(time.monotonic() - begun)
    _say(f"{counted(len(missing), 'demonstration')}, {counted(frames_made, 'frame')} in {took}")
    _say(f"{counted(kept, 'episode')} in {folder}" if options.record else f"results {folder / LIST_FILE}")
    return 0 if summary["all"]["succeeded"] or (options.keep_failures and kept) else 1


def _say(text: str) -> None:
    print(wrapped(text, sys.stdout))


@contextlib.contextmanager
def _writer(options: DemonstrationOptions) -> Iterator[DatasetWriter | None]:
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
    make_folders(folder)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            yield None
    except filelock.Timeout:
        raise SimulationError(f"{folder}: another process works in it; wait for it to end") from None


def _provenance(options: DemonstrationOptions, assets: AssetSet) -> dict[str, object]:
    made_with = provenance(*DECIDING_PACKAGES)
    given = record_of(options)
    return {
        "started": now(),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
        "assets": {"kind": assets.kind, "hash": assets.hash},
        "versions": made_with["versions"],
        "git": made_with["git_revision"],
        "machine": machine(),
    }


def _print_summary(summary: DemonstrationSummary, options: DemonstrationOptions, assets: AssetSet) -> None:
    title = f"{assets.kind} assets, perturbation {options.perturb}, {'with' if options.noise else 'no'} noise"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("goal")
    for column in ("tried", "succeeded", "95%", "lifted first", "steps", "grasped again", "no room"):
        # at 80 columns goals and headings wrap, and no word is cut; the widest number is an interval, such as 96-100%
        table.add_column(column, justify="right", width=max(7 if column == "95%" else 5, *map(len, column.split())))
    for name, metrics in [*summary["goals"].items(), ("all", summary["all"])]:
        low, high = metrics["wilson_95"]
        steps = metrics["mean_steps_of_successes"]
        table.add_row(
            escape(name),
            str(metrics["tried"]),
            str(metrics["succeeded"]),
            f"{100 * low:.0f}-{high:.0%}",
            str(metrics["told_object_lifted_first"]),
            "-" if steps is None else f"{steps:.0f}",
            str(metrics["needed_another_grasp"]),
            str(metrics["no_room"]),
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
