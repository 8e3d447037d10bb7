"""`vlascope-latents ls`: runs and episodes as tables. Knows nothing of tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlascope_latents.commands.options import Options
from vlascope_latents.store import LatentStore
from vlascope_latents.units import readable_bytes


@dataclasses.dataclass(kw_only=True)
class Ls(Options):
    """Lists runs, their episodes, frames, bytes and status."""

    path: Annotated[Path, tyro.conf.Positional]
    """A run, or a folder of runs."""
    attempts: bool = False
    """Every attempt at an episode, not just the last sealed one."""

    def run(self) -> int:
        """Prints one table a run."""
        store = LatentStore(self.path)
        console = Console()
        for run in store.runs:
            episodes = store.episodes(run.name, attempts="all" if self.attempts else "last")
            frames = [
                (e.frames, e.row.nbytes if e.status != "open" else sum(x.nbytes for x in e.lines())) for e in episodes
            ]
            total, size = sum(n for n, _ in frames), sum(n for _, n in frames)
            table = Table(title=escape(f"{run.name}: {len(episodes)} episodes, {total} frames, {readable_bytes(size)}"))
            for column in ("episode", "status", "success", "frames", "bytes", "dropped", "task"):
                numbers = column in ("frames", "bytes", "dropped")
                table.add_column(
                    column,
                    justify="right" if numbers else "left",
                    overflow="fold" if column == "episode" else "ellipsis",
                )
            for episode, (count, nbytes) in zip(episodes, frames, strict=True):
                success = {True: "yes", False: "no", None: "-"}[episode.success]
                task = episode.metadata.get("task_name") or ""
                cells = [
                    episode.row.folder,
                    episode.status,
                    success,
                    count,
                    readable_bytes(nbytes),
                    episode.row.dropped,
                    task,
                ]
                table.add_row(*(escape(str(cell)) for cell in cells))
            console.print(table)
        return 0
