"""`vlascope-latents ls`: runs and episodes as tables, or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.markup import escape
from vlascope_base.text import printable

from vlascope_latents.commands.episode_table import print_episodes, size_of
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
                print_episodes(console, run.name, campaign, [e for e in own if (e.campaign or "") == campaign])
            if not own and self.campaign is None:
                later = not self.attempts and store.episodes(run.name)
                what = (
                    "later attempts of its episodes are in other runs; --attempts shows it" if later else "no episodes"
                )
                console.print(escape(printable(f"{run.name}: {what}")))
        return 0


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
        "bytes": size_of(episode),
        "dropped": row.dropped,
        "instruction": row.metadata.get("instruction"),
        "task_instruction": row.metadata.get("task_instruction"),
    }
