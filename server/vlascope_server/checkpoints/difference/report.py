"""The report in words: overall statistics, the largest differences, groups, components, layers, and what they amount to.

Every sentence of the summary follows from the numbers above it; nothing is said about causes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vlascope_base.text import readable_bytes

from vlascope_server.checkpoints.difference.result import Difference, ParameterDifference
from vlascope_server.checkpoints.difference.sums import Sums, total

TOP = 20
"""Parameters that are shown as those with the largest differences."""
_LISTED = 50
"""Names of parameters on one side that are listed; results in JSON have all."""


def report(difference: Difference) -> str:
    """The text of `model_difference_report.txt`."""
    parts = (
        _head(difference), _overall(difference), _top(difference), _groups(difference), _components(difference),
        _layers(difference), _one_sided(difference), _not_finite(difference), _summary(difference),
    )  # fmt: skip
    return "\n".join(line for part in parts if (lines := list(part)) for line in (*lines, ""))


def largest(difference: Difference) -> list[ParameterDifference]:
    """The parameters by falling L2 norm."""
    return sorted(difference.parameters, key=lambda p: (-p.sums.l2, p.name))


def defined(values: Iterable[float]) -> list[float]:
    """Those that are numbers: a cosine with a vector of zeros is none."""
    return [value for value in values if not math.isnan(value)]


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def _head(difference: Difference) -> Iterator[str]:
    yield from _title("MODEL DIFFERENCE REPORT", "=")
    for name, side in (("A", difference.a), ("B", difference.b)):
        step = "" if side.step is None else f", step {side.step}"
        yield f"{name}: {side.location} ({side.format}{step}, {side.parameters} parameters, {side.elements:,} numbers)"
    yield f"Differences are A - B, computed in float64 over {readable_bytes(difference.bytes_read)} as stored."


def _overall(difference: Difference) -> Iterator[str]:
    sums = [p.sums for p in difference.parameters]
    yield from _title("OVERALL STATISTICS")
    yield f"Total parameters analyzed: {len(sums)}"
    for name, values in (
        ("L2 Norm", [s.l2 for s in sums]),
        ("Cosine Similarity", defined(s.cosine for s in sums)),
        ("Relative Difference", [s.relative for s in sums]),
    ):
        yield f"{name} - Mean: {_number(mean(values))}, Std: {_number(_std(values))}"
    whole = difference.sums
    yield "All parameters as one vector:"
    yield from _metrics(whole)
    yield f"  Numbers that differ: {whole.changed:,} of {whole.count:,} ({_share(whole)})"


def _top(difference: Difference) -> Iterator[str]:
    yield from _title(f"TOP {TOP} PARAMETERS WITH LARGEST DIFFERENCES")
    for rank, p in enumerate(largest(difference)[:TOP], 1):
        yield f"{rank:2}. {p.name}"
        yield from (f"  {line}" for line in _metrics(p.sums))
        if p.spectrum:
            yield f"    Spectral Norm: {_number(p.spectrum.norm)}"
            yield f"    Effective Rank: {p.spectrum.rank:.1f}"


def _groups(difference: Difference) -> Iterator[str]:
    yield from _title("GROUP-LEVEL ANALYSIS")
    for name, members in difference.by_group().items():
        yield from _gathered(f"{name.upper()} GROUP", members)


def _components(difference: Difference) -> Iterator[str]:
    yield from _title("COMPONENT-LEVEL ANALYSIS")
    for name, members in difference.by_component().items():
        yield from _gathered(name.upper(), members)


def _gathered(title: str, members: Sequence[ParameterDifference]) -> Iterator[str]:
    sums = [p.sums for p in members]
    yield f"{title}:"
    yield f"  Parameter count: {len(members)}"
    yield f"  Average L2 norm: {_number(mean([s.l2 for s in sums]))}"
    yield f"  Max L2 norm: {_number(max(s.l2 for s in sums))}"
    yield f"  Average cosine similarity: {_number(mean(defined(s.cosine for s in sums)))}"
    yield f"  Average relative difference: {_number(mean([s.relative for s in sums]))}"
    whole = total(sums)
    yield f"  As one vector: L2 {_number(whole.l2)}, cosine {_number(whole.cosine)}, relative {_number(whole.relative)}"


def _layers(difference: Difference) -> Iterator[str]:
    rows = {component: layers for component, layers in _by_component(difference).items() if layers}
    if not rows:
        return
    yield from _title("RELATIVE DIFFERENCE BY LAYER")
    depth = max(len(layers) for layers in rows.values())
    yield f"{'layer':>5} " + " ".join(f"{component:>13}" for component in rows)
    for layer in range(depth):
        cells = (f"{layers[layer].relative:13.6g}" if layer < len(layers) else " " * 13 for layers in rows.values())
        yield f"{layer:5} " + " ".join(cells)


def _by_component(difference: Difference) -> dict[str, tuple[Sums, ...]]:
    """Component -> sums of every layer over all of its parameters that have layers."""
    found: dict[str, tuple[Sums, ...]] = {}
    for (component, _), layers in difference.by_layer().items():
        known = found.get(component, (Sums(),) * len(layers))
        found[component] = tuple(one + other for one, other in zip(known, layers, strict=True))
    return found


def _one_sided(difference: Difference) -> Iterator[str]:
    for title, names in (
        ("PARAMETERS IN A ONLY", {n: str(s) for n, s in difference.only_a.items()}),
        ("PARAMETERS IN B ONLY", {n: str(s) for n, s in difference.only_b.items()}),
        ("PARAMETERS OF UNLIKE SHAPES", {n: f"{a} and {b}" for n, (a, b) in difference.unlike.items()}),
    ):
        if names:
            yield from _title(f"{title} ({len(names)}, not compared)")
            yield from (f"  {name} {shape}" for name, shape in list(names.items())[:_LISTED])
            if len(names) > _LISTED:
                yield f"  ... and {len(names) - _LISTED} more, which the JSON file lists"


def _not_finite(difference: Difference) -> Iterator[str]:
    bad = [p for p in difference.parameters if p.sums.not_finite]
    if not bad:
        return
    yield from _title("VALUES THAT ARE NOT FINITE (left out of all metrics)")
    for p in bad:
        s = p.sums
        yield f"  {p.name}: A has {s.nan_a} NaN and {s.inf_a} infinite, B {s.nan_b} and {s.inf_b}, of {_size(p)} each"


def _summary(difference: Difference) -> Iterator[str]:
    yield from _title("SUMMARY INSIGHTS")
    yield from (f"- {sentence}" for sentence in insights(difference))


def insights(difference: Difference) -> Iterator[str]:
    """What the numbers amount to, a sentence each."""
    parameters, whole = difference.parameters, difference.sums
    moved = [p for p in parameters if p.sums.changed]
    if not moved:
        what = "finite value that was compared" if whole.not_finite else "value that was compared"
        yield f"Every {what} is equal in both, in all {len(parameters)} parameters."
    else:
        yield (
            f"{len(moved)} of {len(parameters)} parameters differ, in {_share(whole)} of their numbers;"
            f" {len(parameters) - len(moved)} are equal throughout."
        )
        yield (
            f"As one vector, the difference is {100 * whole.relative:.3g}% of the mean norm of both; their cosine is"
            f" {_number(whole.cosine)}."
        )
        first = largest(difference)[0]
        yield (
            f"The largest L2 norm is that of {first.name}: {_number(first.sums.l2)}, which is"
            f" {100 * first.sums.dd / whole.dd:.1f}% of the squared difference of all."
        )
        first = max(moved, key=lambda p: (p.sums.relative, p.name))
        yield f"The largest relative difference is that of {first.name}: {_number(first.sums.relative)}."
        yield from _extremes("group", {name: total(p.sums for p in of) for name, of in difference.by_group().items()})
        yield from _extremes(
            "component", {name: total(p.sums for p in of) for name, of in difference.by_component().items()}
        )
        for component, layers in _by_component(difference).items():
            yield from _extremes(f"layer of the {component}", {str(k): sums for k, sums in enumerate(layers)})
    if opposed := [p for p in parameters if p.sums.cosine < 0]:
        yield f"{len(opposed)} parameters have a negative cosine, the lowest {_number(min(p.sums.cosine for p in opposed))}."
    if undefined := sum(math.isnan(p.sums.cosine) for p in parameters):
        yield f"{undefined} parameters are zero throughout on one side alone: they have no cosine."
    for name, only in (("A", difference.only_a), ("B", difference.only_b)):
        if only:
            adapters = sum("lora_" in parameter for parameter in only)
            yield f"{len(only)} parameters are in {name} only, {adapters} of them LoRA adapters; no number here covers them."
    if difference.unlike:
        yield f"{len(difference.unlike)} parameters have unlike shapes, and were not compared."
    if bad := [p for p in parameters if p.sums.not_finite]:
        yield f"{len(bad)} parameters hold values that are NaN or infinite: {whole.not_finite} in all."


def _extremes(what: str, rows: Mapping[str, Sums]) -> Iterator[str]:
    """Where the relative difference is largest and smallest; nothing where there is no choice."""
    if len(rows) < 2 or not any(sums.changed for sums in rows.values()):
        return
    high = max(rows, key=lambda name: rows[name].relative)
    low = min(rows, key=lambda name: rows[name].relative)
    if rows[high].relative > rows[low].relative:
        yield (
            f"By {what}, the relative difference is largest in {high} ({_number(rows[high].relative)}) and smallest in"
            f" {low} ({_number(rows[low].relative)})."
        )


def _metrics(sums: Sums) -> Iterator[str]:
    for name, value in (
        ("L2 Norm", sums.l2),
        ("L1 Norm", sums.l1),
        ("Cosine Similarity", sums.cosine),
        ("Relative Difference", sums.relative),
        ("Max Abs Diff", sums.largest),
        ("Mean Abs Diff", sums.mean_abs),
        ("Std Abs Diff", sums.std_abs),
    ):
        yield f"  {name}: {_number(value)}"


def _title(text: str, line: str = "-") -> Iterator[str]:
    yield text
    yield line * max(40, len(text))


def _number(value: float) -> str:
    """Six digits behind the point, as the reference prints; where that would hide the number, six significant ones."""
    if math.isnan(value):
        return "not defined"
    # a cosine that is not 1 must not be printed as 1
    hidden = (value and abs(value) < 1e-3) or (value != 1 and f"{value:.6f}" == "1.000000")
    return f"{value:.6g}" if hidden and abs(value) < 1e-3 else f"{value:.12f}" if hidden else f"{value:.6f}"


def _share(sums: Sums) -> str:
    return f"{100 * sums.changed / sums.count:.4g}%" if sums.count else "none"


def _std(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def _size(p: ParameterDifference) -> int:
    return math.prod(p.shape)
