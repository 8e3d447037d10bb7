"""`vlascope-server inspect`: what is in a checkpoint, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import tyro
from vlascope_base.options import CommandOptions

from vlascope_server.options import PresetOptions

if TYPE_CHECKING:
    from vlascope_server.checkpoints.summary import Group, Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(PresetOptions, CommandOptions):
    """Shows a checkpoint's architecture, parameters by component, statistics and training step, reading no weights."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A step folder, its params/, a safetensors file, a URL (downloaded to the cache first), or a preset's name."""
    json: bool = False
    """Print JSON rather than tables."""

    def run(self) -> None:
        """Prints to stdout."""
        from vlascope_server.checkpoints import opened, summarise

        with opened(self.checkpoint, self.preset) as source:
            summary = summarise(source)
        if self.json:
            total = dataclasses.asdict(summary.total())
            print(json.dumps({**dataclasses.asdict(summary), "total": total}, indent=2))
        else:
            _print_tables(summary)


def _print_tables(summary: Summary) -> None:
    from rich.console import Console

    from vlascope_server.checkpoints.summary import COMPONENTS

    console = Console()
    console.print(_facts(summary))
    table = _table("component", "group", "tensors", "elements", "bytes", "dtype")
    for component in COMPONENTS:
        for group in (g for g in summary.groups if g.component == component):
            table.add_row(component, group.group, *_numbers(group))
        table.add_row(component, "all", *_numbers(summary.total(component)), style="bold", end_section=True)
    table.add_row("total", "", *_numbers(summary.total()), style="bold")
    console.print(table)
    stats = _table("asset id", "quantity", "width", "quantiles")
    for asset_id, quantities in summary.norm_stats.items():
        for quantity, entry in quantities.items():
            stats.add_row(asset_id, quantity, str(entry["width"]), "yes" if entry["quantiles"] else "no")
    console.print(stats if summary.norm_stats else "no normalisation statistics")


def _facts(summary: Summary):
    from rich.markup import escape

    table = _table("", "", header=False)
    architecture = summary.architecture
    table.add_row("path", escape(summary.path))
    table.add_row("kind", f"{summary.model}, {summary.kind}")
    for part in ("vision", "vlm", "action"):
        table.add_row(part, ", ".join(f"{k} {v}" for k, v in architecture[part].items() if v is not None))
    rest = {field: value for field, value in architecture.items() if not isinstance(value, dict)}
    known = {field: value for field, value in summary.record.items() if value is not None}
    for field, value in {**rest, **known}.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        table.add_row(field, "not known" if value is None else escape(shown))
    for field, value in (summary.features or {}).items():
        name = f"LeRobot's {field}"
        if isinstance(value, dict):
            table.add_row(name, escape(", ".join(f"{camera} as {slot}" for slot, camera in value.items()) or "none"))
        else:
            table.add_row(name, "not known" if value is None else str(value))
    return table


def _numbers(group: Group) -> tuple[str, str, str, str]:
    return str(group.tensors), f"{group.elements:,}", f"{group.bytes:,}", ", ".join(group.dtypes)


def _table(*columns: str, header: bool = True):
    from rich.table import Table

    table = Table(show_header=header)
    for column in columns:
        number = column in ("tensors", "elements", "bytes", "width")
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table
