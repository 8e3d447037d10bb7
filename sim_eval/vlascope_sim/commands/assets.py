"""`vlascope-sim assets`: which LIBERO assets are in use, and whether they serve each suite."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from vlascope_base.options import CommandOptions

from vlascope_sim.environment.tasks import Suite
from vlascope_sim.errors import SimulationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vlascope_sim.assets import AssetSet
    from vlascope_sim.environment import Task

ALL_SUITES: tuple[Suite, ...] = ("libero_object", "libero_spatial", "libero_goal", "libero_10", "libero_90")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assets(CommandOptions):
    """Shows which LIBERO assets are in use and which suites they serve; downloads official ones, checks stand-ins.

    Without official assets, stand-ins made of primitive shapes are generated: tasks run, but their success rates say nothing
    about official LIBERO scores.
    """

    assets: Path | None = None
    """Root of a set of LIBERO assets, in place of what is found."""
    suites: tuple[Suite, ...] = ()
    """Suites to show, check or draw; all five unless given."""
    download: bool = False
    """First download the official set from the Hugging Face hub, and compare every file with the hub's checksum."""
    revision: str | None = None
    """With download: the commit to take; the one that vlascope knows unless given."""
    check: bool = False
    """Build, settle, look at and solve every task of the suites (seconds a task). Of the stand-ins, the table that comes with
    vlascope is replaced, the other suites' rows being kept where they are of the same assets."""
    contact_sheet: Path | None = None
    """Write a PNG with a labelled picture of every task of the suites."""

    def run(self) -> int:
        """Prints to stdout.

        Returns:
            1 where `--check` found a task that the assets do not serve, else 0.
        """
        from vlascope_sim.assets import resolve_assets
        from vlascope_sim.assets.download import download_assets

        if self.revision is not None and not self.download:
            raise SimulationError("--revision: without --download nothing is taken from the hub; give both, or neither")
        if self.download and self.assets is not None:
            raise SimulationError("--download: not together with --assets: it goes where LIBERO looks for its own")
        chosen = self.suites or ALL_SUITES
        found = resolve_assets(download_assets(self.revision) if self.download else self.assets)
        failed = _check(found, chosen) if self.check else []
        _print_suites(found, chosen)
        if self.contact_sheet is not None:
            _draw(found, chosen, self.contact_sheet)
        return 1 if failed else 0


def _check(found: AssetSet, suites: tuple[Suite, ...]) -> list[str]:
    """The tasks that failed, one line each; they are printed too."""
    import importlib.metadata

    from vlascope_sim.assets.check import check_task, read_checks, write_checks

    checks = [check_task(task, found.path) for task in _tracked(suites, "checking")]
    failed = [f"{check.suite} {check.task}: {check.failure}" for check in checks if check.failure]
    print("\n".join(failed) if failed else f"{len(checks)} tasks checked, none failed")
    if found.kind == "stand-in":
        checked_hash, before = read_checks()
        kept = [check for check in before if check.suite not in suites] if checked_hash == found.hash else []
        versions = {name: importlib.metadata.version(name) for name in ("hf-libero", "mujoco", "robosuite")}
        write_checks([*kept, *checks], found.hash, versions)
    return failed


def _print_suites(found: AssetSet, suites: tuple[Suite, ...]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vlascope_sim.assets.check import failures
    from vlascope_sim.environment import suite_tasks

    console = Console()
    one_line = not console.is_terminal  # on a terminal, whole words
    console.print(f"{found.kind} assets {found.hash} in {escape(str(found.path))}", soft_wrap=one_line)
    table = Table("suite", "tasks", "files missing", "tasks failing", "state")
    remarks = []
    for suite in suites:
        missing = found.missing(suite)
        failing = failures(suite, found.hash) if found.kind == "stand-in" else []
        remarks += [f"{suite}: {line}" for line in [*(f"no {name}" for name in missing), *failing]]
        state = "complete" if not missing and not failing else "incomplete"
        known = str(len(failing)) if found.kind == "stand-in" else "not checked"
        table.add_row(suite, str(len(suite_tasks(suite))), str(len(missing)), known, state)
    console.print(table)
    for remark in remarks:
        console.print(escape(remark), soft_wrap=one_line)


def _draw(found: AssetSet, suites: tuple[Suite, ...], file: Path) -> None:
    from vlascope_sim.assets.pictures import write_sheet
    from vlascope_sim.environment import LiberoEnvironment

    pictures = []
    for task in _tracked(suites, "drawing"):
        with LiberoEnvironment(task, found.path) as environment:
            image = environment.reset(0, seed=0).image
        assert image is not None  # noqa: S101  (reset draws unless told not to)
        # Policies see the scene mirrored; people had better not.
        pictures.append((f"{task.suite.removeprefix('libero_')} {task.id}: {task.instruction}", image[:, ::-1]))
    write_sheet(pictures, file)
    print(f"wrote {file}")


def _tracked(suites: tuple[Suite, ...], doing: str) -> Iterable[Task]:
    from rich.console import Console
    from rich.progress import track

    from vlascope_sim.environment import suite_tasks

    tasks = [task for suite in suites for task in suite_tasks(suite)]
    return track(tasks, doing, console=Console(stderr=True))
