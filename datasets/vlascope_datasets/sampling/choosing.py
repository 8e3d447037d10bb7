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
_LARGEST = 1 << 53
"""Up to it, every reader of JSON reads whole numbers exactly."""
_WIDEST = 10_000_000
"""Numbers in a context vector; those of models have thousands."""
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
    check_numbers(episodes, seed, width)
    strata: dict[str, list[int]] = {}
    known: set[str] = set()  # a file that cannot be read says nothing but its name, and that makes no stratum
    members, left_out = Counter[str](), []
    for number, episode in enumerate(facts.episodes):
        if stratum := _stratum(episode, by):
            members[stratum] += 1
        if reason := _why_not(episode, stratum, by, places):
            left_out.append(LeftOut(name=episode.name, file=episode.file, reason=reason))
        if stratum:
            numbers = strata.setdefault(stratum, [])
            numbers.extend([] if reason else [number])
        if stratum and reason != _UNUSABLE["unreadable"]:
            known.add(stratum)
    strata = {name: numbers for name, numbers in strata.items() if name in known}
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
            vector_bytes=None if width is None else _vector_bytes(total, width, dtype),
            read_bytes=sum(facts.episodes[number].nbytes for number, _ in drawn),
        ),
        provenance=dict(provenance),
    )


def check_numbers(episodes: int, seed: int, width: int | None) -> None:
    """Raises `DatasetError` where one of the numbers that `choose` takes is out of range."""
    ranges = (("episodes", episodes, 1, _LARGEST), ("seed", seed, 0, _LARGEST), ("width", width, 1, _WIDEST))
    for name, value, least, most in ranges:
        if value is not None and not least <= value <= most:
            raise DatasetError(f"{name}: expected a number from {least} to {most}, found {value}")


def fingerprint(facts: Facts) -> str:
    """32 hexadecimal digits of every episode's name, task, length and numbers; images do not count, nor does the path."""
    digest = hashlib.blake2b(digest_size=16)
    for episode in facts.episodes:
        digest.update(
            "\0".join((episode.name, episode.task, str(episode.length), episode.digest, "")).encode(errors="replace")
        )
    return digest.hexdigest()


def _vector_bytes(vectors: int, width: int, dtype: Dtype) -> int:
    found = vectors * width * BYTES[dtype]
    if found > _LARGEST:
        raise DatasetError(
            f"width: {vectors} vectors of {width} numbers are {found} bytes; expected at most {_LARGEST}"
        )
    return found


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
    short = [name for name, count in eligible.items() if count < max(1, each)]
    if not over and not short:
        return dict.fromkeys(eligible, each)
    remedy = _remedy([_use(_equal_numbers(episodes, eligible)), "--share proportional" * _fits(episodes, eligible)])
    if over:
        raise DatasetError(
            f"{facts.root}: {episodes} episodes cannot be shared out equally among {counted(len(eligible), by)}; {remedy}"
        )
    said = "; ".join(
        f"{by} {_quoted(name)} has {eligible[name]} that can be sampled, of {members[name]}" for name in short[:_SAID]
    )
    more = f"; {len(short) - _SAID} more have too few" if len(short) > _SAID else ""
    raise DatasetError(f"{facts.root}: {episodes} episodes are {each} of each {by}: {said}{more}; {remedy}")


def _proportional(facts: Facts, episodes: int, by: Kind, eligible: Mapping[str, int]) -> dict[str, int]:
    """Largest remainders (Hamilton's method): no share is off its quota by one or more, and they add up exactly."""
    total, fewest = sum(eligible.values()), min(eligible.values())
    if episodes > total:
        raise DatasetError(
            f"{facts.root}: {episodes} episodes are wanted, {total} of its {len(facts.episodes)} can be sampled;"
            f" {_remedy([f'use at most {total}' * bool(fewest)])}"
        )
    shares = _by_size(episodes, eligible)
    if without := [name for name, count in shares.items() if not count]:
        first = without[0]
        # from this number on, the whole part of every quota is 1 or more
        enough = f"use {-(-total // fewest)} or more" if fewest else ""
        equal = _equal_numbers(episodes, eligible)
        remedy = _remedy([enough, f"--share equal with {' or '.join(map(str, equal))}" * bool(equal)])
        raise DatasetError(
            f"{facts.root}: shared out by size, {counted(episodes, 'episode')} leave {len(without)} of {len(eligible)} {by}s"
            f" without any, such as {_quoted(first)}, which has {eligible[first]} of {total}; {remedy}"
        )
    return shares


def _by_size(episodes: int, eligible: Mapping[str, int]) -> dict[str, int]:
    total = sum(eligible.values())
    shares = {name: episodes * count // total for name, count in eligible.items()}
    rest = sorted(eligible, key=lambda name: (-(episodes * eligible[name] % total), name))
    for name in rest[: episodes - sum(shares.values())]:
        shares[name] += 1
    return shares


def _fits(episodes: int, eligible: Mapping[str, int]) -> bool:
    """Whether so many episodes can be shared out by size."""
    return episodes <= sum(eligible.values()) and all(_by_size(episodes, eligible).values())


def _equal_numbers(episodes: int, eligible: Mapping[str, int]) -> list[int]:
    """The numbers nearest to `episodes`, below and above, that can be shared out equally; none where a stratum is empty."""
    each, most = episodes // len(eligible), min(eligible.values())
    return sorted({n * len(eligible) for n in (min(each, most), min(each + 1, most)) if n})


def _use(numbers: Sequence[int]) -> str:
    return f"use {' or '.join(map(str, numbers))}" if numbers else ""


def _remedy(ways: Sequence[str]) -> str:
    """What can be done, of ways that are empty where they are none."""
    return ", or ".join(way for way in ways if way) or "no number is possible: mend these episodes, or take them out"


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
