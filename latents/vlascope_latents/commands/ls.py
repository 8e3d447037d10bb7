"""`vlascope-latents ls`: runs and episodes as tables, or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich import box
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
    json: bool = False
    """Print one JSON document rather than tables; docs/store.md says what its keys mean."""

    def run(self) -> int:
        """Prints one table a campaign of each run, or a JSON document."""
        store = LatentStore(self.path)
        every = store.episodes(campaign=self.campaign, attempts="all" if self.attempts else "last")
        if self.json:
            print(json.dumps(_document(store, every), indent=2))
            return 0
        console = Console()
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


def _size(episode: Episode) -> int:
    """Bytes of an episode's committed frames, uncompressed."""
    return episode.row.nbytes if episode.status != "open" else sum(line.nbytes for line in episode.lines())


def _document(store: LatentStore, episodes: list[Episode]) -> dict[str, object]:
    """What `--json` prints; every run is in it, one that has no such episode with an empty list."""
    runs = [
        {"run": run.name, "created": run.created, "episodes": [_record(e) for e in episodes if e.run == run.name]}
        for run in store.runs
    ]
    return {"store": str(store.path), "runs": runs}


def _record(episode: Episode) -> dict[str, object]:
    row = episode.row
    return {
        "episode": row.name,
        "campaign": row.campaign,
        "attempt": row.attempt,
        "folder": row.folder,
        "status": row.status,
        "success": row.success,
        "frames": episode.frames,
        "bytes": _size(episode),
        "dropped": row.dropped,
        "instruction": row.metadata.get("instruction"),
        "task_instruction": row.metadata.get("task_instruction"),
    }


def _table(run: str, campaign: str, episodes: list[Episode]) -> Table:
    """What one campaign left in one run; an empty `campaign` is none.

    At 80 columns everything is shown: ids fold, instructions wrap between words, and what needs no column has none.
    """
    frames = [(episode.frames, _size(episode)) for episode in episodes]
    total, size = sum(n for n, _ in frames), sum(n for _, n in frames)
    head = f"{run}, campaign {campaign}" if campaign else run
    counted = f"{_counted(len(episodes), 'episode')}, {_counted(total, 'frame')}, {readable_bytes(size)}"
    table = Table(
        title=escape(printable(f"{head}: {counted}")), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    told = [(e.metadata.get("instruction"), e.metadata.get("task_instruction")) for e in episodes]
    otherwise = any(task not in (None, instruction) for instruction, task in told)
    dropped = any(episode.row.dropped for episode in episodes)
    table.add_column("episode", overflow="fold")
    for column in ("status", "success", "frames", "bytes", *(("dropped",) if dropped else ())):
        table.add_column(column, justify="left" if column in ("status", "success") else "right", no_wrap=True)
    for column in ("instruction", *(("task instruction",) if otherwise else ())):
        table.add_column(column, overflow="fold")
    for episode, (count, nbytes), texts in zip(episodes, frames, told, strict=True):
        success = {True: "yes", False: "no", None: "-"}[episode.success]
        cells = [
            episode.row.folder.removeprefix(f"{campaign}+"),
            episode.status,
            success,
            count,
            readable_bytes(nbytes),
            *([episode.row.dropped] if dropped else []),
            *({None: "-", "": "(none)"}.get(text, text) for text in (texts if otherwise else texts[:1])),
        ]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
