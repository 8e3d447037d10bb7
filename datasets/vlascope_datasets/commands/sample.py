"""`vlascope-datasets sample`: which frames of which episodes stand for a dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vlascope_base.files import make_folders, refuse_file, replace_file, replace_json
from vlascope_base.options import CommandOptions, record_of
from vlascope_base.progress import shown
from vlascope_base.provenance import provenance
from vlascope_base.text import counted, printable, readable_bytes

from vlascope_datasets.copying import PACKAGES
from vlascope_datasets.errors import DatasetError
from vlascope_datasets.splitting import SEED

if TYPE_CHECKING:
    from vlascope_datasets.sampling import SamplingPlan

_SHOWN = 20
"""Strata in the table that is printed; the files have all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(CommandOptions):
    """Plans which frames of which episodes stand for a dataset, drawn by task; writes sampling_plan.json and SAMPLING_PLAN.md.

    Of a LeRobot dataset, or a folder of HDF5 or NPZ episodes. Nothing is copied or encoded: the plan lists episodes and frames,
    and says what encoding them costs.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """The folder, or one HDF5 or NPZ file."""
    episodes: int
    """How many to choose in all."""
    frames: str = "0,25,50,75,100%"
    """Of each: percents of its length such as 0,50,100%, or frames by number from 0, such as 0,5,10 or 0-9."""
    by: Literal["task", "direction"] = "task"
    """What the strata are: instructions, or the directions in them or in the file's name (left, horizontal right)."""
    share: Literal["equal", "proportional"] = "equal"
    """As many episodes of each stratum, or as many as its share of the dataset."""
    seed: int = SEED
    """Of the draw; equal seeds draw equal plans."""
    width: int | None = None
    """Numbers in one context vector, for the cost; a size that is not known is said to be so."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of those numbers."""
    out: Path = Path()
    """Folder for both files."""
    overwrite: bool = False
    """Replace the plan that is in it."""

    def run(self) -> int:
        """Surveys, draws, writes both files, prints the strata and the cost."""
        # h5py takes a second to load, which `--help` does not wait for
        from vlascope_datasets.sampling.choosing import check_numbers, choose
        from vlascope_datasets.sampling.places import parse_places
        from vlascope_datasets.sampling.plan import PLAN, WORDS
        from vlascope_datasets.sampling.words import in_words
        from vlascope_datasets.survey import gather

        places = parse_places(self.frames)
        check_numbers(self.episodes, self.seed, self.width)
        refuse_file(self.out, "--out")
        words, plan_file = self.out / WORDS, self.out / PLAN
        for file in () if self.overwrite else (plan_file, words):
            if file.exists():
                raise DatasetError(f"{file}: exists; choose another folder with --out, or give --overwrite")
        with shown() as progress:
            facts = gather(self.path, progress, images=False)
        configuration = {key: str(v) if isinstance(v, Path) else v for key, v in record_of(self).items()}
        plan = choose(
            facts, self.episodes, places, seed=self.seed, by=self.by, share=self.share, width=self.width, dtype=self.dtype,
            provenance={"configuration": configuration, **provenance(*PACKAGES)},
        )  # fmt: skip
        make_folders(self.out)
        replace_file(words, in_words(plan).encode(errors="backslashreplace"))
        replace_json(plan_file, plan.model_dump())  # last: where it stands, both do
        _print(plan)
        print(plan_file)
        print(words)
        return 0


def _print(plan: SamplingPlan) -> None:
    console, cost = Console(), plan.cost
    table = Table(plan.by, "episodes", "can be sampled", "chosen", "frames")
    for each in plan.strata[:_SHOWN]:
        table.add_row(escape(printable(each.name)), *map(str, (each.episodes, each.eligible, each.chosen, each.frames)))
    console.print(table)
    if len(plan.strata) > _SHOWN:
        print(f"... and {len(plan.strata) - _SHOWN} more")
    short = sum(len(episode.frames) < len(plan.places) for episode in plan.episodes)
    if short:
        print(f"short: in {counted(short, 'episode')} several places fall on one frame, which is taken once")
    if plan.left_out:
        print(f"left out: {counted(len(plan.left_out), 'episode')} that cannot be sampled; the plan says why")
    vectors = "of a width that is not known (--width)"
    if cost.vector_bytes is not None:
        vectors = f"{readable_bytes(cost.vector_bytes)} of {cost.vector_width} {cost.vector_dtype} numbers each"
    print(f"cost: {cost.frames} frames to encode, at most {readable_bytes(cost.read_bytes)} to read, vectors {vectors}")
