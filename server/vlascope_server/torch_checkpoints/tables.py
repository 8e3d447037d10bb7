"""Prints inspections on a terminal. What comes from a file is shown, and never obeyed as a terminal's command or as markup."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vlascope_base.text import readable_binary_bytes

from vlascope_server.torch_checkpoints.compatibility import Compatibility
from vlascope_server.torch_checkpoints.inspection import Inspection
from vlascope_server.torch_checkpoints.report import component_rows, facts, shortened


def print_tables(inspections: list[Inspection], compatibility: Compatibility | None) -> None:
    """Prints to stdout: facts, components and hook points of each checkpoint, then whether their heads are compatible."""
    console = Console()
    for found in inspections:
        console.print(_facts(found))
        console.print(_components(found))
        if found.hooks:
            console.print(_hooks(found))
    if compatibility is not None:
        console.print(f"action heads compatible: {'yes' if compatibility.compatible else 'no'}", style="bold")
        for sentence in (*compatibility.reasons, *compatibility.notes):
            console.print(f"- {_shown(sentence)}", highlight=False)


def _facts(found: Inspection) -> Table:
    table = _table("", "", header=False)
    for name, value in facts(found):
        table.add_row(_shown(name), _shown(value))
    return table


def _components(found: Inspection) -> Table:
    table = _table("component", "names", "tensors", "elements of all names", "elements", "size", numbers=5)
    for name, entry in component_rows(found):
        table.add_row(
            name.replace("_", " "), f"{entry.tensors_named:,}", f"{entry.tensors_unique:,}", f"{entry.elements_named:,}",
            f"{entry.elements_unique:,}", readable_binary_bytes(entry.bytes_unique),
            style="bold" if name == "total" else None, end_section=name == "other",
        )  # fmt: skip
    return table


def _hooks(found: Inspection) -> Table:
    table = _table("likely hook point", "read", "width", "what it is")
    for hook in found.hooks:
        layers = f", N < {hook.layers}" if hook.layers else ""
        width = "not known" if hook.width is None else str(hook.width)
        table.add_row(_shown(f"{hook.module}{layers}"), hook.read, width, hook.what)
    return table


def _table(*columns: str, header: bool = True, numbers: int = 0) -> Table:
    table = Table(show_header=header)
    for index, column in enumerate(columns):
        number = index >= len(columns) - numbers
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _shown(text: str) -> str:
    return escape(shortened(text))
