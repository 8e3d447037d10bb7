"""The report of a mix in words: what was mixed by which weights, the losses, and what they say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from vlascope_base.text import counted

from vlascope_server.checkpoints.load import load_statistics
from vlascope_server.mixing.judgement import Judged, compared, interval, verdict
from vlascope_server.mixing.methods import Found
from vlascope_server.mixing.mix import Mixed

_SHOWN_GROUPS = 60
"""Groups whose weights are listed; the JSON has all."""
_SOURCES = {
    "task arithmetic": "Ilharco et al. 2023, Editing Models with Task Arithmetic",
    "ties": "Yadav et al. 2023, TIES-Merging",
    "dare": "Yu et al. 2024, Language Models are Super Mario",
}


def report(mixed: Mixed) -> str:
    """The text of the report."""
    parts = _head(mixed), _weights(mixed), _notes(mixed), _losses(mixed), _summary(mixed)
    return "\n".join(line for part in parts if (lines := list(part)) for line in (*lines, ""))


def conclusion(mixed: Mixed) -> str:
    """Whether mixing helped, in a sentence; what to do where there are no data to tell."""
    if mixed.judged is None:
        return "Whether mixing helped was not looked at: give validation data with --data-path."
    return verdict(mixed.judged, mixed.judged_inputs)


def _head(mixed: Mixed) -> Iterator[str]:
    yield from _title("CHECKPOINT MIX", "=")
    for k, (location, source) in enumerate(zip(mixed.inputs.locations, mixed.inputs.sources, strict=True)):
        step = "" if source.record.step is None else f", step {source.record.step}"
        name = "base" if mixed.tasks and not k else f"checkpoint {k if mixed.tasks else k + 1}"
        yield f"{name}: {location} ({source.kind}{step})"
    yield f"method: {mixed.method}" + (" (lowest loss on the selection episodes of all methods)" if _all(mixed) else "")
    total = len(mixed.params)
    yield (
        f"Of {counted(total, 'parameter')}, {total - mixed.passed_on} differ and were mixed, in float32 sums; the others were"
        " passed on as they are."
    )


def _all(mixed: Mixed) -> bool:
    return mixed.options.optimize_method == "all"


def _weights(mixed: Mixed) -> Iterator[str]:
    if mixed.tasks:
        yield from _title("TASK ARITHMETIC")
        yield f"scales of the differences from the base: {', '.join(f'{scale:g}' for scale in mixed.tasks.scales)}"
        share = f"a share of {mixed.tasks.kept:g} of its values"
        if mixed.tasks.combine == "ties":
            kept = ", ".join(f"{threshold:.4g}" for threshold in mixed.tasks.thresholds)
            yield f"kept of each difference: {share}, the largest, from a magnitude of {kept} on"
        if mixed.tasks.combine == "dare":
            yield f"kept of each difference: {share}, drawn with seed {mixed.tasks.seed}, scaled up by its inverse"
        yield f"source: {_SOURCES[mixed.method]}"
    elif (found := mixed.chosen) is not None:
        yield from _title("WEIGHTS")
        yield from _table(found)


def _table(found: Found) -> Iterator[str]:
    width = max(len(name) for name in found.groups.names)
    count = found.weights.shape[1]
    yield f"{'':{width}} " + " ".join(f"{f'#{k + 1}':>8}" for k in range(count))
    for name, row in list(zip(found.groups.names, found.weights, strict=True))[:_SHOWN_GROUPS]:
        yield f"{name:{width}} " + " ".join(f"{weight:8.4f}" for weight in row)
    if len(found.groups.names) > _SHOWN_GROUPS:
        yield f"… and {len(found.groups.names) - _SHOWN_GROUPS} more, in the JSON"


def _notes(mixed: Mixed) -> Iterator[str]:
    yield from _title("NOTES")
    if mixed.inputs.had_adapters and mixed.options.lora == "factors":
        yield (
            "The factors of the LoRA adapters were mixed, as the reference does. The product of mixed factors is not the mix of"
            " the products; --lora delta mixes the products."
        )
    elif mixed.inputs.had_adapters:
        yield (
            "The products of LoRA adapters were added to their weights before mixing; the mix has no adapters, and what they"
            " changed is in float32."
        )
    yield mixed.statistics.how
    if mixed.data and (unlike := _normalised_otherwise(mixed)):
        yield (
            f"The validation data are normalised with other statistics than those of {', '.join(unlike)}: with their own, the"
            " losses would be others."
        )


def _normalised_otherwise(mixed: Mixed) -> list[str]:
    """Checkpoints whose statistics are not those of the validation data."""
    used = mixed.data.facts.norm_stats if mixed.data else {}
    found = []
    for location, source in zip(mixed.inputs.locations, mixed.inputs.sources, strict=True):
        stats, _ = load_statistics(source, mixed.inputs.config.action_dim)
        both = [(stats[quantity], used[quantity]) for quantity in used if quantity in stats] if stats else []
        if not all(np.array_equal(one.mean, other.mean) and np.array_equal(one.std, other.std) for one, other in both):
            found.append(location)
    return found


def _losses(mixed: Mixed) -> Iterator[str]:
    if not mixed.judged_inputs:
        return
    yield from _title("LOSSES")
    yield "Flow-matching loss, the mean over episodes, with 95% intervals over episodes; lower is better."
    yield "Weights are chosen on the selection episodes and judged on the validation episodes."
    yield "`less best` is the loss less that of the best checkpoint on the selection episodes, episode by episode."
    best = min(mixed.judged_inputs, key=lambda entry: entry.selection.mean)
    rows = [*mixed.judged_inputs, *mixed.judged_mixes]
    width = max(len(row.name) for row in rows)
    yield f"{'':{width}} {'selection':>10} {'validation':>30} {'less best':>33}"
    for row in rows:
        yield f"{row.name:{width}} {row.selection.mean:10.5f} {_shown(row):>30} {_against(row, best):>33}"


def _shown(row: Judged) -> str:
    found = interval(row.validation.values)
    return f"{found.mean:.5f} ({found.low:.5f} to {found.high:.5f})"


def _against(row: Judged, best: Judged) -> str:
    if row is best:
        return "best"
    found = compared(row, best)
    return f"{found.mean:+.5f} ({found.low:+.5f} to {found.high:+.5f})"


def _summary(mixed: Mixed) -> Iterator[str]:
    yield from _title("SUMMARY")
    yield conclusion(mixed)
    if mixed.judged is not None and mixed.data is not None:
        yield "The loss is not success: how often the mix solves its tasks, only rollouts tell."


def _title(text: str, line: str = "-") -> tuple[str, str]:
    return text, line * len(text)
