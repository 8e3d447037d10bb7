"""From what a survey found to a plan: episodes by stratum, shares, the draw, and the frames of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vlascope_base.text import counted, printable

from vlascope_datasets.errors import DatasetError
from vlascope_datasets.sampling.places import Place
from vlascope_datasets.sampling.plan import (
    BYTES,
    VERSION,
    Cost,
    Dtype,
    Kind,
    LeftOut,
    PlannedEpisode,
    SampledDataset,
    SamplingPlan,
    Share,
    Stratum,
)  # fmt: skip
from vlascope_datasets.survey import EpisodeFacts, Facts

_UNUSABLE = {"unreadable": "cannot be read", "missing_file": "a file of it is missing", "empty": "no frames"}
"""Anomalies after which there is nothing to take a frame of, and why."""
_SAID = 3
"""Strata that an error names one by one."""


def choose(
    facts: Facts,
    episodes: int,
    places: Sequence[Place],
    *,
    seed: int,
    by: Kind = "task",
    share: Share = "equal",
    width: int | None = None,
    dtype: Dtype = "float32",
    provenance: Mapping[str, Any],
) -> SamplingPlan:
    """Draws episodes of every stratum, without replacement.

    Each stratum is drawn by a generator of its own, made of `seed` and the stratum's name: what is drawn of one does not depend
    on the others, and who takes more of it with the same seed takes the same episodes and others.

    Args:
        facts: of the dataset.
        episodes: to choose in all.
        places: in every episode, ascending.
        seed: at least 0.
        by: what the strata are.
        share: `equal`: as many of each stratum; `proportional`: as many as its share of the episodes that can be chosen.
        width: numbers in one context vector, for the cost.
        dtype: of those numbers.
        provenance: what the plan is made with.

    Raises:
        DatasetError: a number is out of range, no episode can be chosen, or a stratum has too few; the message has the numbers.
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("width", width, 1)):
        if value is not None and value < least:
            raise DatasetError(f"{name}: expected at least {least}, found {value}")
    strata: dict[str, list[int]] = {}
    members, left_out = Counter[str](), []
    for number, episode in enumerate(facts.episodes):
        if stratum := _stratum(episode, by):
            members[stratum] += 1
        if reason := _why_not(episode, stratum, by, places):
            left_out.append(LeftOut(name=episode.name, file=episode.file, reason=reason))
        if stratum:
            strata.setdefault(stratum, []).extend([] if reason else [number])
    if not any(strata.values()):
        raise DatasetError(f"{facts.root}: {_nothing(facts, left_out)}")
    eligible = {name: len(strata[name]) for name in sorted(strata)}
    shares = (
        _equal(facts, episodes, by, eligible, members)
        if share == "equal"
        else _proportional(facts, episodes, by, eligible)
    )
    drawn = [(number, name) for name, count in shares.items() for number in _draw(strata[name], count, name, seed)]
    planned = [_planned(number, facts.episodes[number], name, places) for number, name in sorted(drawn)]
    frames = Counter[str]()
    for each in planned:
        frames[each.stratum] += len(each.frames)
    total = frames.total()
    return SamplingPlan(
        version=VERSION,
        seed=seed,
        by=by,
        share=share,
        places=[place.text for place in places],
        dataset=SampledDataset(
            path=str(Path(facts.root).resolve()),
            format=facts.format,
            episodes=len(facts.episodes),
            frames=sum(episode.length for episode in facts.episodes),
            fingerprint=fingerprint(facts),
        ),
        strata=[
            Stratum(name=name, episodes=members[name], eligible=eligible[name], chosen=count, frames=frames[name])
            for name, count in shares.items()
        ],
        episodes=planned,
        left_out=left_out,
        cost=Cost(
            frames=total,
            vector_width=width,
            vector_dtype=dtype,
            vector_bytes=None if width is None else total * width * BYTES[dtype],
            read_bytes=sum(facts.episodes[number].nbytes for number, _ in drawn),
        ),
        provenance=dict(provenance),
    )


def fingerprint(facts: Facts) -> str:
    """32 hexadecimal digits of every episode's name, task, length and numbers; images do not count, nor does the path."""
    digest = hashlib.blake2b(digest_size=16)
    for episode in facts.episodes:
        digest.update(
            "\0".join((episode.name, episode.task, str(episode.length), episode.digest, "")).encode(errors="replace")
        )
    return digest.hexdigest()


def _stratum(episode: EpisodeFacts, by: Kind) -> str:
    return episode.task if by == "task" else episode.direction


def _why_not(episode: EpisodeFacts, stratum: str, by: Kind, places: Sequence[Place]) -> str:
    """Why an episode cannot be chosen; empty where it can."""
    for anomaly in episode.anomalies:
        if anomaly.kind in _UNUSABLE:
            return _UNUSABLE[anomaly.kind]
    if not stratum:
        return f"nothing says its {by}"
    if any(place.frame(episode.length) is None for place in places):
        return f"{counted(episode.length, 'frame')}, none with number {places[-1].text}"
    return ""


def _nothing(facts: Facts, left_out: Sequence[LeftOut]) -> str:
    if not facts.episodes:
        return "holds no episodes"
    (reason, count), *_ = Counter(each.reason for each in left_out).most_common(1)
    return f"none of its {counted(len(facts.episodes), 'episode')} can be sampled (of {count}: {reason})"


def _equal(
    facts: Facts, episodes: int, by: Kind, eligible: Mapping[str, int], members: Mapping[str, int]
) -> dict[str, int]:
    each, over = divmod(episodes, len(eligible))
    if over:
        near = [str(n) for n in (episodes - over, episodes - over + len(eligible)) if n]
        raise DatasetError(
            f"episodes: {episodes} cannot be shared out equally among {counted(len(eligible), by)}; use {' or '.join(near)}"
            + (", or --share proportional" if episodes > len(eligible) else "")
        )
    if short := [name for name, count in eligible.items() if count < each]:
        said = "; ".join(
            f"{by} {_quoted(name)} has {eligible[name]} that can be sampled, of {members[name]}"
            for name in short[:_SAID]
        )
        more = f"; {len(short) - _SAID} more have too few" if len(short) > _SAID else ""
        most = min(eligible.values()) * len(eligible)
        remedy = f"use at most {most}" if most else "mend these episodes, or take them out"
        remedy += ", or --share proportional" if most and episodes <= sum(eligible.values()) else ""
        raise DatasetError(f"{facts.root}: {episodes} episodes are {each} of each {by}: {said}{more}; {remedy}")
    return dict.fromkeys(eligible, each)


def _proportional(facts: Facts, episodes: int, by: Kind, eligible: Mapping[str, int]) -> dict[str, int]:
    """Largest remainders (Hamilton's method): no share is off its quota by one or more, and they add up exactly."""
    total = sum(eligible.values())
    if episodes > total:
        raise DatasetError(
            f"{facts.root}: {episodes} episodes are wanted, {total} of its {len(facts.episodes)} can be sampled;"
            f" use at most {total}"
        )
    shares = {name: episodes * count // total for name, count in eligible.items()}
    rest = sorted(eligible, key=lambda name: (-(episodes * eligible[name] % total), name))
    for name in rest[: episodes - sum(shares.values())]:
        shares[name] += 1
    if without := [name for name, count in shares.items() if not count]:
        first = without[0]
        raise DatasetError(
            f"{facts.root}: shared out by size, {counted(episodes, 'episode')} leave {len(without)} of {len(eligible)} {by}s"
            f" without any, such as {_quoted(first)}, which has {eligible[first]} of {total}; use more, or --share equal"
        )
    return shares


def _quoted(name: str) -> str:
    shown = printable(name)
    return f"'{shown if len(shown) <= 60 else shown[:57] + '...'}'"


def _draw(numbers: Sequence[int], count: int, stratum: str, seed: int) -> list[int]:
    own = int.from_bytes(hashlib.blake2b(stratum.encode(errors="replace"), digest_size=16).digest(), "big")
    order = np.random.default_rng([seed, own]).permutation(len(numbers))
    return [numbers[place] for place in order[:count].tolist()]


def _planned(number: int, episode: EpisodeFacts, stratum: str, places: Sequence[Place]) -> PlannedEpisode:
    taken: dict[int, list[str]] = {}
    for place in places:
        if (frame := place.frame(episode.length)) is not None:
            taken.setdefault(frame, []).append(place.text)
    return PlannedEpisode(
        number=number,
        name=episode.name,
        file=episode.file,
        stratum=stratum,
        length=episode.length,
        frames=list(taken),
        places=list(taken.values()),
        anomalies=sorted({anomaly.kind for anomaly in episode.anomalies}),
    )
