"""`SAMPLING_PLAN.md`: a plan in words, made of what `sampling_plan.json` holds and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from vlascope_base.text import counted, printable, readable_bytes

from vlascope_datasets.sampling.plan import PLAN, SamplingPlan

_SHARES = {
    "equal": "Every {by} gives the same number of episodes, however many it has, so that all of them are known equally well."
    " A figure over all vectors is then a mean over {by}s, not over the dataset.",
    "proportional": "Every {by} gives episodes by its share of those that can be sampled (by largest remainders), so that the"
    " sample is mixed as the dataset is. Rare {by}s are known less well.",
}


def in_words(plan: SamplingPlan) -> str:
    """The text of `SAMPLING_PLAN.md`."""
    parts = (_head, _strategy, _algorithm, _odd, _cost, _checks, _criteria, _made_with)
    return "\n".join(line for part in parts for line in (*part(plan), "")).rstrip() + "\n"


def _head(plan: SamplingPlan) -> Iterator[str]:
    data = plan.dataset
    yield "# Sampling plan"
    yield ""
    yield (
        f"{counted(plan.cost.frames, 'frame')} of {counted(len(plan.episodes), 'episode')} stand for the"
        f" {data.episodes:,} episodes ({data.frames:,} frames) of {_cell(data.path)} ({data.format})."
    )
    yield f"{PLAN} lists them; a program reads it with `vlascope_datasets.sampling.read_plan`."


def _strategy(plan: SamplingPlan) -> Iterator[str]:
    yield "## Strategy"
    yield ""
    yield f"Stratified by {plan.by}, {plan.share} shares. {_SHARES[plan.share].format(by=plan.by)}"
    yield ""
    yield f"| {plan.by} | episodes | can be sampled | chosen | frames |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for each in plan.strata:
        yield f"| {_cell(each.name)} | {each.episodes} | {each.eligible} | {each.chosen} | {each.frames} |"
    sums = [sum(getattr(s, name) for s in plan.strata) for name in ("episodes", "eligible", "chosen", "frames")]
    yield f"| total | {' | '.join(map(str, sums))} |"
    yield ""
    if plan.places[0].endswith("%"):
        yield f"Frames of each episode, by progress: {', '.join(plan.places)}; 0% is its first frame and 100% its last."
        short = sum(len(episode.frames) < len(plan.places) for episode in plan.episodes)
        yield (
            f"{short} of the chosen episodes are so short that several of these fall on one frame, which is taken once."
            if short
            else "In every chosen episode these are different frames."
        )
    else:
        yield f"Frames of each episode, by number from 0: {', '.join(plan.places)}. Shorter episodes are not sampled."


def _algorithm(plan: SamplingPlan) -> Iterator[str]:
    yield "## Algorithm"
    yield ""
    yield f"1. Every episode of the dataset is surveyed: length, task, direction, what is wrong with it. {_left_out(plan)}"
    yield f"2. Those that can be sampled are grouped by {plan.by}, in the dataset's order."
    yield (
        f"3. Each {plan.by} is shuffled by a random generator of its own, made of the seed {plan.seed} and its name, and gives"
        f" its first episodes. So none is drawn twice, and a plan of this seed that takes more of a {plan.by} takes these and"
        " others."
    )
    yield (
        "4. Progress p% of an episode of n frames is frame p (n - 1) / 100, rounded to the nearest frame, and to the earlier"
        " one where two are equally near."
        if plan.places[0].endswith("%")
        else "4. The frames of those numbers are taken."
    )
    yield f"5. The plan is read by listing: {PLAN} has every episode's frames, and nothing is drawn again."


def _left_out(plan: SamplingPlan) -> str:
    if not plan.left_out:
        return "All of them can be sampled."
    reasons = Counter(each.reason for each in plan.left_out).most_common()
    said = "; ".join(f"{reason}: {count}" for reason, count in reasons[:5])
    more = "; others for other reasons" if len(reasons) > 5 else ""
    return f"{counted(len(plan.left_out), 'episode')} cannot be sampled ({said}{more})."


def _odd(plan: SamplingPlan) -> Iterator[str]:
    odd = [episode for episode in plan.episodes if episode.anomalies]
    yield "## Odd episodes"
    yield ""
    if not odd:
        yield "The survey found nothing wrong with any chosen episode's numbers. Images were not looked at."
        return
    kinds = Counter(kind for episode in odd for kind in episode.anomalies).most_common()
    yield (
        f"{len(odd)} of the chosen episodes are odd in their numbers ({', '.join(f'{kind}: {n}' for kind, n in kinds)}); they"
        " are sampled all the same. Images were not looked at. `vlascope-datasets stats` says what is wrong with each."
    )


def _cost(plan: SamplingPlan) -> Iterator[str]:
    cost = plan.cost
    yield "## Cost"
    yield ""
    yield "| what | how much |"
    yield "| --- | --- |"
    yield f"| frames to encode, one vector each | {cost.frames:,} |"
    yield (
        "| bytes of the context vectors | not known: nobody said how wide a vector is (`--width`) |"
        if cost.vector_bytes is None
        else f"| bytes of the context vectors | {readable_bytes(cost.vector_bytes)}: {cost.frames:,} of {cost.vector_width:,}"
        f" {cost.vector_dtype} numbers |"
    )
    yield f"| bytes to read | at most {readable_bytes(cost.read_bytes)}: the chosen episodes as they lie on disk |"
    yield "| time | the frames above, divided by what the encoder does in a second; measure that on the first ten |"


def _checks(plan: SamplingPlan) -> Iterator[str]:
    total = sum(s.chosen for s in plan.strata)
    yield "## Checks"
    yield ""
    yield "Done when the plan was made, and again whenever it is read:"
    yield ""
    yield f"- Every {plan.by} has the number of episodes in the table above; together they are {total}."
    yield "- No episode is listed twice."
    yield "- Every frame lies inside of its episode, and no frame is listed twice."
    yield f"- Every episode has a frame for each of the {counted(len(plan.places), 'place')}: {', '.join(plan.places)}."
    yield f"- The frames of all episodes are {plan.cost.frames}."
    yield ""
    yield "To do before vectors are made: the dataset still has the fingerprint"
    yield f"`{plan.dataset.fingerprint}` (names, tasks, lengths and numbers of all its episodes; not its images)."


def _criteria(plan: SamplingPlan) -> Iterator[str]:
    n = plan.cost.frames
    yield "## Success criteria"
    yield ""
    yield "The vectors of a model are good for a comparison where all of these hold:"
    yield ""
    yield f"- There are {n} of them, one for each frame that is listed, in that order" + (
        f", each of {plan.cost.vector_width} numbers." if plan.cost.vector_width else "."
    )
    yield "- Every number is finite."
    yield "- No dimension has the same value in all vectors: such a dimension says nothing."
    yield "- No two frames that differ have the same vector: otherwise the model does not see its input."
    yield f"- Every {plan.by} has the number of frames in the table above: none was skipped."
    yield "- Two models that are compared were given the same frames, of a dataset with the same fingerprint."


def _made_with(plan: SamplingPlan) -> Iterator[str]:
    yield "## Made with"
    yield ""
    for name, value in plan.provenance.items():
        yield f"- {name}: {_cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))}"


def _cell(text: str) -> str:
    """Text that breaks no table and no line."""
    return printable(text).replace("|", "\\|")
