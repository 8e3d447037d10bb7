"""`vlascope-server cache`: what the cache folder holds, and how to clear it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec
from vlascope_base.options import CommandOptions
from vlascope_base.text import readable_bytes

from vlascope_server.cache_contents import CACHE_KINDS, CacheKind, CachePart, cache_parts, checked_folder, clear

_CHOICES = (*CACHE_KINDS, "all")


def _read_kinds(words: Sequence[str]) -> tuple[CacheKind, ...]:
    wrong = [repr(word) for word in words if word not in _CHOICES]
    if wrong or not words:
        raise ValueError(f"expected one or several of {', '.join(_CHOICES)}; found {', '.join(wrong) or 'nothing'}")
    return tuple(kind for kind in CACHE_KINDS if kind in words or "all" in words)


# tyro's own error would name the choices in an order that changes from call to call, and take no kind at all for the default
Kinds = Annotated[
    tuple[CacheKind, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{{{','.join(_CHOICES)}}} ...",
        instance_from_str=_read_kinds,
        is_instance=lambda value: isinstance(value, tuple) and all(kind in CACHE_KINDS for kind in value),
        str_from_instance=lambda kinds: [*kinds],
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache(CommandOptions):
    """Shows what the cache folder holds, or clears it; all of it is made or fetched again where it is needed.

    End what uses it before you clear assets, downloads or imports: what runs reads them.
    """

    clear: Kinds = ()
    """Kinds to remove, or `all`."""
    json: bool = False
    """Print one JSON document rather than a table: bytes and numbers by kind, or the bytes that were freed."""

    def run(self) -> None:
        """Prints what there is, or how many bytes were freed.

        Raises:
            CacheError: what stands where the cache folder should be is none, or another process writes what is to be cleared.
        """
        folder = str(checked_folder())
        if self.clear:
            freed: dict[str, int] = {}
            for kind in self.clear:
                freed[kind] = clear(kind)
                if not self.json:
                    print(f"{kind:<12}{readable_bytes(freed[kind])} freed")
            if self.json:
                print(json.dumps({"folder": folder, "freed": freed, "bytes": sum(freed.values())}, indent=2))
            elif len(freed) > 1:
                print(f"{'together':<12}{readable_bytes(sum(freed.values()))} freed")
            return
        parts = cache_parts()
        nbytes = sum(part.nbytes for part in parts)
        if self.json:
            print(json.dumps({"folder": folder, "bytes": nbytes, "kinds": [_record(part) for part in parts]}, indent=2))
            return
        print(f"cache folder {folder}: {readable_bytes(nbytes)}")
        _print_parts(parts)
        print("`--clear KIND ...` or `--clear all` removes what is of a kind")


def _record(part: CachePart) -> dict[str, object]:
    used = None if part.last_use is None else datetime.datetime.fromtimestamp(part.last_use, datetime.UTC)
    return {
        "kind": part.kind,
        "what": part.what,
        "number": part.number,
        "bytes": part.nbytes,
        "last_use": used and used.isoformat(timespec="seconds"),
    }


def _print_parts(parts: Sequence[CachePart]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("what")
    for column in ("number", "bytes", "last use"):
        table.add_column(column, justify="right", no_wrap=True)
    for part in parts:
        used = "-" if part.last_use is None else f"{datetime.datetime.fromtimestamp(part.last_use):%Y-%m-%d %H:%M}"
        table.add_row(part.kind, part.what, str(part.number), readable_bytes(part.nbytes), used)
    Console().print(table)
