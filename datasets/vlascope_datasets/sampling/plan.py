"""A plan: which frames of which episodes stand for a dataset. Its form, its file and its one reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.files import read_json
from vlascope_datasets.records import Count, Record, Whole, checked_record

PLAN, WORDS = "sampling_plan.json", "SAMPLING_PLAN.md"
"""The file that programs read, and the one that people do."""
VERSION = 1

Share = Literal["equal", "proportional"]
Kind = Literal["task", "direction"]
Dtype = Literal["float32", "float16", "bfloat16"]
BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of one number of a context vector."""


class SampledDataset(Record):
    """The dataset that a plan was made of.

    Attributes:
        path: absolute.
        format: for example `LeRobot v2.1`, `HDF5`.
        episodes, frames: of all of it.
        fingerprint: of the names, tasks, lengths and numbers (not the images) of all of its episodes; see `fingerprint`.
    """

    path: str
    format: str
    episodes: Count
    frames: Count
    fingerprint: str


class Stratum(Record):
    """The episodes of one task, or of one direction.

    Attributes:
        name: the task, or the direction.
        episodes: in the dataset.
        eligible: of them, those that can be sampled.
        chosen: of those, how many are in the plan.
        frames: of the chosen ones, in the plan.
    """

    name: str
    episodes: Count
    eligible: Count
    chosen: Whole
    frames: Whole


class PlannedEpisode(Record):
    """An episode that was chosen.

    Attributes:
        number: its place among the episodes of the dataset, from 0; of a LeRobot dataset, its number.
        name: unique in the dataset: `episode 3`, a file, or `FILE:GROUP` for one of several in an HDF5 file (`data/GROUP`).
        file: relative to the dataset's folder.
        stratum: the name of its stratum.
        length: its frames.
        frames: to take, ascending, each once.
        places: for each of those frames, the places that it was taken for; several where the episode is so short that they
            fall on one frame.
        anomalies: what the survey found to be odd about it, as kinds; see docs/datasets.md.
    """

    number: Count
    name: str
    file: str
    stratum: str
    length: Whole
    frames: Annotated[list[Count], Field(min_length=1)]
    places: list[Annotated[list[str], Field(min_length=1)]]
    anomalies: list[str]


class LeftOut(Record):
    """An episode that could not be chosen, and why."""

    name: str
    file: str
    reason: str


class Cost(Record):
    """What working through a plan takes.

    Attributes:
        frames: to encode, one context vector each.
        vector_width: numbers in one vector; None where nobody said.
        vector_dtype: of those numbers.
        vector_bytes: of all vectors; None where the width is not known.
        read_bytes: of the chosen episodes on disk, which is the most that has to be read.
    """

    frames: Whole
    vector_width: Whole | None
    vector_dtype: Dtype
    vector_bytes: Count | None
    read_bytes: Count


class SamplingPlan(Record):
    """What `sampling_plan.json` holds.

    Attributes:
        version: of this form.
        seed: of the draw.
        by: what the strata are.
        share: how the chosen episodes are shared out among them.
        places: in every episode, ascending: `0%`, or the number of a frame.
        dataset: that it was made of.
        strata: by name.
        episodes: that were chosen, in the dataset's order.
        left_out: episodes that could not be.
        cost: of encoding what was chosen.
        provenance: what it was made with: `configuration`, `versions`, `git_revision`. All else is a function of the
            dataset and the options.
    """

    version: Literal[1]
    seed: Count
    by: Kind
    share: Share
    places: Annotated[list[str], Field(min_length=1)]
    dataset: SampledDataset
    strata: Annotated[list[Stratum], Field(min_length=1)]
    episodes: Annotated[list[PlannedEpisode], Field(min_length=1)]
    left_out: list[LeftOut]
    cost: Cost
    provenance: dict[str, Any]


def read_plan(path: str | Path) -> SamplingPlan:
    """Reads a plan.

    Args:
        path: `sampling_plan.json`, or the folder that it is in.

    Raises:
        DatasetError: there is no such file.
        DamagedError: it is no plan, or what it says twice differs; the message names file, field and values.
    """
    file = Path(path) / PLAN if Path(path).is_dir() else Path(path)
    raw = read_json(file)
    if isinstance(raw, dict) and raw.get("version", VERSION) != VERSION:
        raise DamagedError(
            f"{file}: version {raw['version']!r} of a sampling plan is not read, {VERSION} is; make it anew"
        )
    plan = checked_record(SamplingPlan, raw, str(file))
    for wrong in contradictions(plan):
        raise DamagedError(f"{file}: {wrong}; make it anew")
    return plan


def contradictions(plan: SamplingPlan) -> Iterator[str]:
    """What is wrong with a plan whose every field is of the right kind, a line each; none where it is sound."""
    for what, found in (("episode", [e.name for e in plan.episodes]), ("stratum", [s.name for s in plan.strata])):
        if twice := [name for name, count in Counter(found).items() if count > 1]:
            yield f"{what} {twice[0]!r} stands in it twice"
    for episode in plan.episodes:
        if episode.frames != sorted(set(episode.frames)):
            yield f"{episode.name}: expected frames in ascending order, each once, found {episode.frames}"
        if episode.frames[-1] >= episode.length:
            yield f"{episode.name}: frame {episode.frames[-1]} of an episode of {episode.length} frames"
        if len(episode.places) != len(episode.frames) or list(chain(*episode.places)) != plan.places:
            yield f"{episode.name}: its frames are of the places {episode.places}, the plan is of {plan.places}"
    chosen, frames = Counter(e.stratum for e in plan.episodes), Counter[str]()
    for episode in plan.episodes:
        frames[episode.stratum] += len(episode.frames)
    if unknown := sorted(set(chosen) - {stratum.name for stratum in plan.strata}):
        yield f"stratum {unknown[0]!r} of an episode is not among its strata"
    for stratum in plan.strata:
        said, found = (stratum.chosen, stratum.frames), (chosen[stratum.name], frames[stratum.name])
        if said != found:
            yield (
                f"stratum {stratum.name!r}: says {said[0]} episodes and {said[1]} frames, {found[0]} and {found[1]} are listed"
            )
        if not stratum.chosen <= stratum.eligible <= stratum.episodes:
            yield (
                f"stratum {stratum.name!r}: {stratum.chosen} chosen of {stratum.eligible} that can be, of {stratum.episodes}"
            )
    if plan.cost.frames != frames.total():
        yield f"cost.frames is {plan.cost.frames}, its episodes have {frames.total()}"
