"""`vlascope-server cache`: what the cache folder holds, and how to clear it."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Literal

from vlascope_base.cache import cache_folder
from vlascope_base.options import CommandOptions
from vlascope_base.text import readable_bytes

from vlascope_server.cache_contents import CACHE_KINDS, CacheKind, cache_parts, clear


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache(CommandOptions):
    """Shows what the cache folder holds, or clears it; all of it is made or fetched again where it is needed.

    End what uses it before you clear assets, downloads or imports: what runs reads them.
    """

    clear: tuple[CacheKind | Literal["all"], ...] = ()
    """Kinds to remove, or `all`."""

    def run(self) -> None:
        """Prints a table, or how many bytes were freed."""
        if not self.clear:
            _print_parts()
            return
        kinds: list[CacheKind] = [kind for kind in CACHE_KINDS if kind in self.clear or "all" in self.clear]
        freed = 0
        for kind in kinds:
            freed += (now := clear(kind))
            print(f"{kind:<12}{readable_bytes(now)} freed")
        if len(kinds) > 1:
            print(f"{'together':<12}{readable_bytes(freed)} freed")


def _print_parts() -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("what")
    for column in ("number", "bytes", "last use"):
        table.add_column(column, justify="right", no_wrap=True)
    parts = cache_parts()
    for part in parts:
        used = "-" if part.last_use is None else f"{datetime.datetime.fromtimestamp(part.last_use):%Y-%m-%d %H:%M}"
        table.add_row(part.kind, part.what, str(part.number), readable_bytes(part.nbytes), used)
    print(f"cache folder {cache_folder()}: {readable_bytes(sum(part.nbytes for part in parts))}")
    Console().print(table)
    print("`--clear KIND ...` or `--clear all` removes what is of a kind")
