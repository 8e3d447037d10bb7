"""`vlascope-sim results`: campaigns beside each other, and which differences are more than chance."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional
from vlascope_base.options import CommandOptions

from vlascope_sim.errors import RolloutError

if TYPE_CHECKING:
    from vlascope_sim.rollout.comparison import Comparison, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results(CommandOptions):
    """Compares the successes of campaigns, by task and over all, each with the first.

    A difference is taken over the episodes that both campaigns have done (same task, episode and repeat), pair by pair. Its
    95 % interval says what can be concluded: where it contains 0, the two are not told apart.
    """

    campaigns: Positional[tuple[Path, ...]]
    """Folders of rollouts, the one to compare with first."""
    csv: Path | None = None
    """Write the table as CSV; a file of this name is replaced."""
    parquet: Path | None = None
    """Write the table as Parquet; a file of this name is replaced."""

    def run(self) -> None:
        """Prints to stdout."""
        from vlascope_sim.rollout.comparison import compare, read_folder, write_table

        if not self.campaigns:
            raise RolloutError("results: expected folders of rollouts, found none")
        if repeated := [folder for k, folder in enumerate(self.campaigns) if folder in self.campaigns[:k]]:
            raise RolloutError(f"{repeated[0]}: is given twice")
        comparison = compare([read_folder(folder) for folder in self.campaigns])
        for warning in comparison.warnings:
            logging.getLogger(__name__).warning("%s", warning)
        _print(comparison)
        for path in (self.csv, self.parquet):
            if path is not None:
                write_table(path, comparison.rows, csv=path is self.csv)
                print(f"table   {path}")


def _print(comparison: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    rows = comparison.rows
    paths = dict.fromkeys(row.campaign for row in rows)
    short = len({Path(path).name for path in paths}) == len(paths)
    table = Table(title="Successes and differences to the first, with 95% intervals", box=SIMPLE_HEAD, pad_edge=False)
    columns = ("task", "campaign", "success", "interval", "difference", "interval", "in common", "")
    for column in columns:
        words = column in ("campaign", "")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    before = None
    for row in rows:
        if before is not None and row.task != before:
            table.add_section()
        name = Path(row.campaign).name if short else row.campaign
        table.add_row("" if row.task == before else row.task, name, *_cells(row))
        before = row.task
    console = Console()
    # what is read from a pipe has no width of its own
    (console if console.is_terminal else Console(width=120)).print(table)
    for row in rows:
        if row.task == "all" and row.difference is not None:
            print(_sentence(row, rows[0].campaign))
    if rows[-1].difference is not None and len({row.task for row in rows}) > 2:
        print("Each interval stands alone: of twenty tasks without a difference, one seems to have one by chance.")


def _cells(row: Row) -> tuple[str, ...]:
    errors = f", {row.errors} errors" if row.errors else ""
    rate = "-" if row.success_rate is None else f"{row.successes} of {row.episodes} ({row.success_rate:.0%}){errors}"
    known = row.wilson_low is not None and row.wilson_high is not None
    return (
        rate,
        f"{row.wilson_low:.0%} to {row.wilson_high:.0%}" if known else "-",
        "" if row.difference is None else f"{100 * row.difference:+.0f}",
        _interval(row),
        "" if row.in_common is None else str(row.in_common),
        _verdict(row),
    )


def _verdict(row: Row) -> str:
    if row.in_common is None or row.difference is None:
        return "" if row.in_common is None else "nothing to compare"
    if not row.told_apart:
        return "not told apart"
    return "more successes" if row.difference > 0 else "fewer successes"


def _interval(row: Row) -> str:
    if row.difference_low is None or row.difference_high is None:
        return ""
    return f"{100 * row.difference_low:+.0f} to {100 * row.difference_high:+.0f}"


def _sentence(row: Row, first: str) -> str:
    why = "" if row.told_apart else ": the interval contains 0"
    return (
        f"{row.campaign} against {first}: {100 * (row.difference or 0.0):+.1f} points, 95% interval {_interval(row)}, over "
        f"{row.in_common} episodes in common: {_verdict(row)}{why}."
    )
