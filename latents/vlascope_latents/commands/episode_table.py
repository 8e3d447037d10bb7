"""Episodes for a person's eyes: a table where the terminal has room for one, else a few lines an episode.

Nothing is cut: ids break behind their hyphens, instructions between words, and numbers never. What stands in the store was
written by others: it is shown, and never obeyed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from vlascope_base.text import printable, readable_bytes

from vlascope_latents.store import Episode

_LONGEST_PART = 24
"""Characters of an id without a hyphen that a column keeps on one line."""

_WIDE = 10_000
"""Columns: so many that nothing has to wrap while it is measured."""


@dataclasses.dataclass(frozen=True)
class Id:
    """A name that breaks behind its hyphens, and inside of a part only where that is longer than a line."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((cell_len(part) for part in self._parts()), default=1)
        return Measurement(min(longest, _LONGEST_PART), max(1, cell_len(self.text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in self._parts():
            if lines[-1] and cell_len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")

    def _parts(self) -> list[str]:
        return re.findall(r"[^-]*-+|[^-]+$", self.text)


@dataclasses.dataclass(frozen=True)
class _Row:
    """What is shown of an episode; all of it can be printed."""

    id: str
    status: str
    success: str
    frames: int
    nbytes: int
    dropped: int
    told: tuple[str, ...]

    @classmethod
    def of(cls, episode: Episode, campaign: str) -> _Row:
        told = (episode.metadata.get("instruction"), episode.metadata.get("task_instruction"))
        return cls(
            id=printable(episode.row.folder.removeprefix(f"{campaign}+")),
            status=printable(episode.status),
            success={True: "yes", False: "no", None: "-"}[episode.success],
            frames=episode.frames,
            nbytes=size_of(episode),
            dropped=episode.row.dropped,
            told=tuple(printable({None: "-", "": "(none)"}.get(text, text)) for text in told),
        )


def size_of(episode: Episode) -> int:
    """Bytes of an episode's committed frames, uncompressed."""
    return episode.row.nbytes if episode.status != "open" else sum(line.nbytes for line in episode.lines())


def print_episodes(console: Console, run: str, campaign: str, episodes: Sequence[Episode]) -> None:
    """Prints what one campaign left in one run; an empty `campaign` is none.

    What needs no column has none: numbers of dropped frames where none was, task instructions where they are what was told.
    """
    rows = [_Row.of(episode, campaign) for episode in episodes]
    head = f"{run}, campaign {campaign}" if campaign else run
    total, size = sum(row.frames for row in rows), sum(row.nbytes for row in rows)
    counted = f"{_counted(len(rows), 'episode')}, {_counted(total, 'frame')}, {readable_bytes(size)}"
    title = printable(f"{head}: {counted}")
    dropped = any(row.dropped for row in rows)
    otherwise = any(task not in ("-", told) for told, task in (row.told for row in rows))
    texts = ("instruction", "task instruction")[: 1 + otherwise]
    table = _table(title, rows, texts, dropped=dropped)
    if _fitted(table, console):
        console.print(table)
        return
    console.print(Text(title, overflow="fold"))
    for row in rows:
        numbers = [row.status, f"success {row.success}", _counted(row.frames, "frame"), readable_bytes(row.nbytes)]
        lines: list[RenderableType] = [Text(", ".join(numbers + [f"{row.dropped} dropped"] * dropped), overflow="fold")]
        lines += [Text(f"{name}: {told}", overflow="fold") for name, told in zip(texts, row.told, strict=False)]
        console.print(Id(row.id))
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 2)))


def _table(title: str, rows: Iterable[_Row], texts: Sequence[str], *, dropped: bool) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("episode")
    for name in ("status", "success", "frames", "bytes", *(("dropped",) if dropped else ())):
        table.add_column(name, justify="left" if name in ("status", "success") else "right", no_wrap=True)
    for name in texts:
        table.add_column(name, overflow="fold")
    for row in rows:
        numbers = [str(row.frames), readable_bytes(row.nbytes), *([str(row.dropped)] if dropped else [])]
        told = row.told[: len(texts)]
        table.add_row(Id(row.id), *(Text(cell) for cell in (row.status, row.success, *numbers, *told)))
    return table


def _fitted(table: Table, console: Console) -> bool:
    """Gives every column of `table` a width at which nothing is cut; False where there is no room for that.

    rich itself would make the widest columns narrower until the table fits, whatever that does to words.
    """
    options = console.options.update(width=_WIDE)
    flexible = []
    for column in table.columns:
        cells = [Measurement.get(console, options, cell) for cell in (Text(str(column.header)), *column.cells)]
        least, most = max(cell.minimum for cell in cells), max(cell.maximum for cell in cells)
        column.width = most if column.no_wrap else least
        if not column.no_wrap:
            flexible.append((column, most - least))
    spare = console.width - Measurement.get(console, options, table).minimum
    if spare < 0:
        return False
    for k, (column, wanted) in enumerate(flexible):
        rest = sum(wanted for _, wanted in flexible[k + 1 :])
        given = min(wanted, max(spare // (len(flexible) - k), spare - rest))
        column.width = (column.width or 0) + given
        spare -= given
    return True


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
