"""`vlascope-sim results`: campaigns beside each other, and which differences are more than chance."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from tyro.conf import Positional
from vlascope_base.options import CommandOptions
from vlascope_base.text import counted, wrapped

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


_COLUMNS = ("task", "campaign", "success", "interval", "difference", "interval", "in common", "")
_NARROW = 100
"""Characters of a terminal below which cells are written shorter."""
_SHORTEST_NAME = 8


def _print(comparison: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    rows = comparison.rows
    paths = dict.fromkeys(row.campaign for row in rows)
    short = len({Path(path).name for path in paths}) == len(paths)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # what is read from a pipe has no width of its own
    lines: list[tuple[str, ...]] = []
    for before, row in zip([None, *rows], rows, strict=False):
        name = Path(row.campaign).name if short else row.campaign
        cells = _cells(row, narrow=console.width < _NARROW)
        lines.append(("" if before and row.task == before.task else row.task, name, *cells))
    widths = _widths(lines, console.width)
    # columns that a terminal has no room for would disappear without a word: the lines are rather too long for it
    console.width = max(console.width, _table_width(widths))
    title = "Successes and differences to the first, with 95% intervals"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column, width in zip(_COLUMNS, widths, strict=True):
        justify = "left" if column in ("campaign", "") else "right"
        table.add_column(column, justify=justify, min_width=width, max_width=width, overflow="fold")
    for line, row, after in zip(lines, rows, [*rows[1:], None], strict=True):
        table.add_row(*map(escape, line), end_section=after is not None and after.task != row.task)
    console.print(table)
    for row in rows:
        if row.task == "all" and row.difference is not None:
            print(wrapped(_sentence(row, rows[0].campaign), sys.stdout))
    if rows[-1].difference is not None and len({row.task for row in rows}) > 2:
        alone = "Each interval stands alone: of twenty tasks without a difference, one seems to have one by chance."
        print(wrapped(alone, sys.stdout))


def _widths(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column: no word is cut, but in names of campaigns where there is no room for them."""
    columns = [list(cells) for cells in zip(_COLUMNS, *lines, strict=True)]
    widths = [max(len(word) for cell in cells for word in [*cell.split(), ""]) for cells in columns]
    name = _COLUMNS.index("campaign")
    widths[name] = min(widths[name], max(_SHORTEST_NAME, width - _table_width(widths) + widths[name]))
    # what is left goes to columns whose cells it spares a second line: the last, which is the verdict, first
    for column in reversed(range(len(columns))):
        needed = max(map(len, columns[column])) - widths[column]
        if needed <= width - _table_width(widths):
            widths[column] += needed
    return widths


def _table_width(columns: Sequence[int]) -> int:
    """With two characters between columns, and one at each edge."""
    return sum(columns) + 2 * len(columns)


def _cells(row: Row, *, narrow: bool) -> tuple[str, ...]:
    errors = f", {counted(row.errors, 'error')}" if row.errors else ""
    of, to = ("/", "-") if narrow else (" of ", "% to ")
    rate = "-" if row.success_rate is None else f"{row.successes}{of}{row.episodes} ({row.success_rate:.0%}){errors}"
    low, high = row.wilson_low, row.wilson_high
    return (
        rate,
        "-" if low is None or high is None else f"{100 * low:.0f}{to}{high:.0%}",
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
        f"{counted(row.in_common or 0, 'episode')} in common: {_verdict(row)}{why}."
    )
