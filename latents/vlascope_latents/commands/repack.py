"""`vlascope-latents repack`: compresses sealed episodes."""

from __future__ import annotations

import dataclasses

from vlascope_base.progress import tracked
from vlascope_base.text import counted, readable_bytes

from vlascope_latents.commands.options import StoreOptions
from vlascope_latents.store import LatentStore
from vlascope_latents.store.repack import repack_episode
from vlascope_latents.store.run_writer import lock_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repack(StoreOptions):
    """Compresses the sealed episodes of runs that nobody writes; states the ratio."""

    dry_run: bool = False
    """Say what would be compressed, and stop."""

    def run(self) -> int:
        """Compresses episode by episode: one array of one episode needs room twice for a while."""
        store = LatentStore(self.path)
        episodes = [e for e in store.episodes(attempts="all") if e.status != "open"]
        print(
            f"{counted(len(episodes), 'episode')}, {readable_bytes(sum(e.row.nbytes for e in episodes))} before compression"
        )
        if self.dry_run:
            return 0
        before = after = 0
        for name in dict.fromkeys(episode.run for episode in episodes):
            own = [episode for episode in episodes if episode.run == name]
            with lock_run(own[0].path):
                for episode in tracked(own, f"repacking {name}"):
                    plain, packed = repack_episode(episode)
                    before, after = before + plain, after + packed
        if before:
            print(f"{readable_bytes(before)} became {readable_bytes(after)}: ratio {before / max(1, after):.2f}")
        else:
            print("nothing to do: every sealed episode is compressed")
        return 0
