"""`vlascope-latents ls`: runs and episodes as tables."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vlascope_base.text import printable, readable_bytes

from vlascope_latents.commands.options import CampaignOptions
from vlascope_latents.store import Episode, LatentStore


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ls(CampaignOptions):
    """Lists runs, their episodes, frames, bytes and status."""

    attempts: bool = False
    """Every attempt at an episode, not just the last sealed one."""

    def run(self) -> int:
        """Prints one table a campaign of each run."""
        store = LatentStore(self.path)
        console = Console()
        every = store.episodes(campaign=self.campaign, attempts="all" if self.attempts else "last")
        for run in store.runs:
            own = [episode for episode in every if episode.run == run.name]
            for campaign in sorted({episode.campaign or "" for episode in own}):
                console.print(_table(run.name, campaign, [e for e in own if (e.campaign or "") == campaign]))
            if not own and self.campaign is None:
                later = not self.attempts and store.episodes(run.name)
                what = (
                    "later attempts of its episodes are in other runs; --attempts shows it" if later else "no episodes"
                )
                console.print(escape(printable(f"{run.name}: {what}")))
        return 0


def _table(run: str, campaign: str, episodes: list[Episode]) -> Table:
    """What one campaign left in one run; an empty `campaign` is none."""
    frames = [(e.frames, e.row.nbytes if e.status != "open" else sum(x.nbytes for x in e.lines())) for e in episodes]
    total, size = sum(n for n, _ in frames), sum(n for _, n in frames)
    head = f"{run}, campaign {campaign}" if campaign else run
    table = Table(title=escape(printable(f"{head}: {len(episodes)} episodes, {total} frames, {readable_bytes(size)}")))
    told = [(e.metadata.get("instruction"), e.metadata.get("task_instruction")) for e in episodes]
    otherwise = any(task not in (None, instruction) for instruction, task in told)
    for column in ("episode", "status", "success", "frames", "bytes", "dropped", "instruction"):
        numbers = column in ("frames", "bytes", "dropped")
        table.add_column(
            column, justify="right" if numbers else "left", overflow="fold" if column == "episode" else "ellipsis"
        )
    if otherwise:
        table.add_column("task instruction", overflow="ellipsis")
    for episode, (count, nbytes), texts in zip(episodes, frames, told, strict=True):
        success = {True: "yes", False: "no", None: "-"}[episode.success]
        cells = [
            episode.row.folder.removeprefix(f"{campaign}+"),
            episode.status,
            success,
            count,
            readable_bytes(nbytes),
            episode.row.dropped,
            *({None: "-", "": "(none)"}.get(text, text) for text in (texts if otherwise else texts[:1])),
        ]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table
