"""`vlascope-latents verify`: recomputes checksums. Knows nothing of how a frame is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import track

from vlascope_latents.commands.options import Options
from vlascope_latents.printable import printable
from vlascope_latents.store import LatentStore, verify


@dataclasses.dataclass(kw_only=True)
class Verify(Options):
    """Recomputes the checksum of every committed frame and names each that is damaged; exit code 1 where one is."""

    path: Annotated[Path, tyro.conf.Positional]
    """A run, or a folder of runs."""

    def run(self) -> int:
        """Prints one line a damaged frame."""
        episodes = LatentStore(self.path).episodes(attempts="all")
        problems = [
            problem for episode in track(episodes, "verifying", transient=True) for problem in verify([episode])
        ]
        for problem in problems:
            print(printable(problem))
        frames = sum(episode.frames for episode in episodes)
        print(f"{len(episodes)} episodes, {frames} frames: {len(problems) or 'no'} problems")
        return 1 if problems else 0
