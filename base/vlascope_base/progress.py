"""How long work reports how far it is, and the bars on stderr that show it.

A line of bars fits a terminal of 60 columns or more: the bar itself gives way first, and what else a task says stands on a
line of its own below. What is logged meanwhile goes above the bars (`StderrHandler` in `command.py`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

T = TypeVar("T")

_DESCRIPTION_WIDTH, _BAR_WIDTH = 26, 40
"""Characters at most."""

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
        field: the name of a field that each task gives and updates; its text is shown below the bars, and wraps.
        transient: the bars disappear when they stop.
    """
    from rich.console import Console, RenderableType
    from rich.padding import Padding
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class BarsAndTexts(Bars):
        """Bars, and below them the text of each task."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            for task in self.tasks:
                if task.visible and field is not None and (text := task.fields.get(field)):
                    yield Padding(Text(text), (0, 0, 0, 2), expand=False)

    console = console or Console(file=sys.stderr)
    # of the columns that rich may narrow, the bar is the only one: a time that is cut short says nothing
    columns = [
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_DESCRIPTION_WIDTH),
        ),
        BarColumn(bar_width=None, table_column=Column(max_width=_BAR_WIDTH)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    ]
    # what is printed meanwhile would go to the bars' console: above the bars on a terminal, but never into a pipe
    return BarsAndTexts(
        *columns,
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,  # all that would be left of them in a file is an empty line
        redirect_stdout=sys.stdout.isatty(),
    )
