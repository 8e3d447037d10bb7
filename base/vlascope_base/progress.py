"""How long work reports how far it is, and the bars on stderr that show it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """Reports to nobody."""


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """A progress bar on stderr for each thing that is being done; all are gone when the block ends."""
    with progress_bars(transient=True) as bars:
        known = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total or None)

        yield report


def tracked(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a progress bar on stderr that is gone when the last of them is done."""
    with shown() as report:
        for done, item in enumerate(items):
            report(what, done, len(items))
            yield item


def progress_bars(console: Console | None = None, *, field: str | None = None, transient: bool = False) -> Bars:
    """Bars with a description, done of total, the time gone and the time left.

    Args:
        console: where they are shown; stderr unless given.
        field: the name of a field that each task gives and updates; it is shown behind the bar.
        transient: the bars disappear when they stop.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    if field is not None:
        columns.append(TextColumn(f"{{task.fields[{field}]}}"))
    # what is printed meanwhile would go to the bars' console: above the bars on a terminal, but never into a pipe
    return Bars(
        *columns,
        console=console or Console(file=sys.stderr),
        transient=transient,
        redirect_stdout=sys.stdout.isatty(),
    )
