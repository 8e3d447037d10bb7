"""`vlascope-server inspect`: what is in a checkpoint, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from vlascope_base import VlascopeError
from vlascope_base.files import refuse_file
from vlascope_base.options import CommandOptions

from vlascope_server.options import PresetOptions

if TYPE_CHECKING:
    from vlascope_server.checkpoints.summary import Group, Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(PresetOptions, CommandOptions):
    """Shows what is in a checkpoint, reading no weights: architecture or components, parameters, training step.

    Takes the formats of Pi0, and PyTorch checkpoints of any policy (.ckpt, .pt, .pth, .bin, .safetensors). A PyTorch file's
    pickle is read and never run.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A step folder, its params/, a safetensors or PyTorch file, a URL (downloaded to the cache first), or a preset's name;
    or drawn:SEED with --like."""
    other: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[OTHER]")] = None
    """A second PyTorch checkpoint: are the action heads of the two compatible?"""
    json: bool = False
    """Print JSON rather than tables."""
    output_dir: Path | None = None
    """PyTorch only: folder for checkpoint_structure_analysis.json and CHECKPOINT_STRUCTURE.md; earlier ones are replaced."""
    trust: bool = False
    """PyTorch only: read on where the pickle would call what no checkpoint needs. The call is listed, and never made."""

    def run(self) -> None:
        """Prints to stdout."""
        from vlascope_server.torch_checkpoints.recognise import torch_file

        if self.output_dir is not None:
            refuse_file(self.output_dir, "--output-dir")
        locations = [self.checkpoint] if self.other is None else [self.checkpoint, self.other]
        paths = [torch_file(location) for location in locations]
        if all(path is not None for path in paths):
            self._inspect_torch([path for path in paths if path is not None])
            return
        for option, given in (("--output-dir", self.output_dir is not None), ("--trust", self.trust)):
            if given and self.other is None:
                raise VlascopeError(
                    f"{option}: only for PyTorch checkpoints, and {self.checkpoint} is taken for a Pi0; leave it away"
                )
        if self.other is not None:
            pi0 = [location for location, path in zip(locations, paths, strict=True) if path is None]
            raise VlascopeError(
                f"{' and '.join(pi0)}: taken for a Pi0, and inspect compares the action heads of PyTorch checkpoints;"
                " to compare two"
                " Pi0 checkpoints, use vlascope-server diff"
            )
        self._inspect_pi0()

    def _inspect_pi0(self) -> None:
        from vlascope_server.checkpoints import opened, summarise

        with opened(self.checkpoint, self.preset, self.like) as source:
            summary = summarise(source)
        if self.json:
            total = dataclasses.asdict(summary.total())
            print(json.dumps({**dataclasses.asdict(summary), "total": total}, indent=2))
        else:
            _print_tables(summary)

    def _inspect_torch(self, paths: list[Path]) -> None:
        from vlascope_server.torch_checkpoints import compare_heads, inspect_checkpoint, open_torch_checkpoint
        from vlascope_server.torch_checkpoints.report import as_json, write_report
        from vlascope_server.torch_checkpoints.tables import print_tables

        for option, given in (("--preset", self.preset), ("--like", self.like)):
            if given is not None:
                raise VlascopeError(
                    f"{option}: only for a Pi0, and {paths[0]} is another PyTorch checkpoint; leave it away"
                )
        found = [inspect_checkpoint(open_torch_checkpoint(path, trust=self.trust)) for path in paths]
        heads = compare_heads(*found) if len(found) == 2 else None
        if self.json:
            print(json.dumps(as_json(found, heads), indent=2))
        else:
            print_tables(found, heads)
        if self.output_dir is not None:
            for file in write_report(self.output_dir, found, heads):
                print(file, file=sys.stderr if self.json else sys.stdout)


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
