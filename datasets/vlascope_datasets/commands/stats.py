"""`vlascope-datasets stats`: what is in a dataset and what is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vlascope_base.files import make_folders
from vlascope_base.options import record_of
from vlascope_base.progress import shown
from vlascope_base.provenance import provenance
from vlascope_base.text import readable_bytes

from vlascope_datasets.commands.options import TimedOptions
from vlascope_datasets.copying import PACKAGES
from vlascope_datasets.files import write_json

if TYPE_CHECKING:
    from vlascope_datasets.survey import Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stats(TimedOptions):
    """Surveys a LeRobot dataset, or a folder of HDF5 or NPZ episodes; what is wrong is listed by file, and ends nothing."""

    path: Annotated[Path, tyro.conf.Positional]
    """The folder, or one HDF5 or NPZ file."""
    out: Path
    """Folder for dataset_statistics.json and dataset_statistics.png; those of an earlier run are replaced."""
    images: bool = True
    """Look at the first, middle and last image of every episode and camera (LeRobot)."""

    def run(self) -> int:
        """Surveys, writes both files, prints a summary."""
        # matplotlib and h5py take a second to load, which `--help` does not wait for
        from vlascope_datasets.survey import gather, summarise
        from vlascope_datasets.survey.figure import draw

        with shown() as progress:
            facts = gather(self.path, progress, images=self.images, tolerance_s=self.tolerance_s)
        configuration = {key: str(value) for key, value in record_of(self).items()}
        summary = {"configuration": configuration, **provenance(*PACKAGES), **summarise(facts)}
        make_folders(self.out)
        write_json(self.out / "dataset_statistics.json", summary)
        draw(summary, self.out / "dataset_statistics.png")
        _print(summary)
        print(self.out / "dataset_statistics.json")
        print(self.out / "dataset_statistics.png")
        return 0


def _print(summary: Summary) -> None:
    console, lengths = Console(), summary["lengths"]
    table = Table(show_header=False, title=escape(f"{summary['path']}: {summary['format']}"))
    table.add_row("episodes", f"{summary['total_episodes']:,}")
    table.add_row("frames", f"{summary['total_frames']:,}")
    table.add_row("bytes", readable_bytes(summary["total_bytes"]))
    if lengths:
        table.add_row(
            "length", f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}, mean {lengths['mean']:.1f}"
        )
    for name in ("tasks", "directions"):
        tested = summary["balance"][name]
        said = (
            ""
            if tested["p_value"] is None
            else f", {'balanced' if tested['balanced'] else 'unbalanced'} (p = {tested['p_value']:.2g})"
        )
        table.add_row(name, f"{len(summary[name])}{said}")
    if summary["not_read"]:
        table.add_row("not read", escape("; ".join(f"{key}: {why}" for key, why in summary["not_read"].items())))
    found = summary["anomalies"]
    table.add_row(
        "anomalies", f"{found['count']} in {len(found['by_file'])} files", style="red" if found["count"] else "green"
    )
    console.print(table)
    for file, lines in list(found["by_file"].items())[:20]:
        for line in lines[:3]:
            console.print(
                f"{escape(file)}: [red]{line['kind']}[/] {escape(line['detail'])}", highlight=False, soft_wrap=True
            )
    if len(found["by_file"]) > 20:
        console.print(f"... and {len(found['by_file']) - 20} more files: dataset_statistics.json lists them all")
