"""`vlascope-datasets split`: disjoint datasets by episode."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table
from vlascope_base.progress import shown
from vlascope_base.text import readable_bytes

from vlascope_datasets.commands.options import EmptyEpisodesOptions, TimedOptions
from vlascope_datasets.copying import without
from vlascope_datasets.files import folder_bytes
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.splitting import SEED, SPLITS, choose_episodes, split_dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(EmptyEpisodesOptions, TimedOptions):
    """Splits a LeRobot dataset by episode into split_0, split_1, ..., each a whole dataset; split.json says which is where."""

    source_path: Path
    """The dataset: a folder with `meta/`, `data/` and, where it has videos, `videos/`."""
    dst_path: Path
    """Folder to write to; absent or empty."""
    split_num: int = SPLITS
    """How many."""
    seed: int = SEED
    """Of the shuffle of episodes before they are dealt out."""
    dry_run: bool = False
    """Say which episodes would go where and how many bytes it takes, and stop."""

    def run(self) -> int:
        """Prints the cost, splits, prints a table."""
        source = LeRobotDataset.open(self.source_path, tolerance_s=self.tolerance_s)
        episodes = without(source, empty=self.empty == "drop")
        chosen = choose_episodes(episodes, self.split_num, self.seed)
        print(f"{source!r}: about {readable_bytes(folder_bytes(source.root))} to write")
        if self.dry_run:
            for number, episodes in enumerate(chosen):
                print(f"split_{number}: {len(episodes)} episodes: {', '.join(map(str, episodes))}")
            return 0
        with shown() as progress:
            record = split_dataset(
                source, self.dst_path, self.split_num, self.seed, progress, drop_empty=self.empty == "drop"
            )
        table = Table("split", "episodes", "frames", "tasks", "checksum")
        for split in record["splits"]:
            cells = (split["name"], split["episodes"], split["frames"], len(split["tasks"]), split["checksum"])
            table.add_row(*map(str, cells))
        total = record["total"]
        table.add_row("total", str(total["episodes"]), str(total["frames"]), "", total["checksum"], style="bold")
        Console().print(table)
        print(self.dst_path / "split.json")
        return 0
