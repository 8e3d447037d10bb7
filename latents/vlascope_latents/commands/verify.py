"""`vlascope-latents verify`: recomputes checksums."""

from __future__ import annotations

import dataclasses

from vlascope_base.progress import tracked
from vlascope_base.text import counted, printable

from vlascope_latents.commands.options import StoreOptions
from vlascope_latents.store import LatentStore, verify


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify(StoreOptions):
    """Recomputes the checksum of every committed frame and names each that is damaged; exit code 1 where one is."""

    def run(self) -> int:
        """Prints one line a damaged frame."""
        episodes = LatentStore(self.path).episodes(attempts="all")
        problems = [problem for episode in tracked(episodes, "verifying") for problem in verify([episode])]
        for problem in problems:
            print(printable(problem))
        frames = sum(episode.frames for episode in episodes)
        told = f"{counted(len(episodes), 'episode')}, {counted(frames, 'frame')}"
        print(f"{told}: {counted(len(problems), 'problem')}")
        return 1 if problems else 0
