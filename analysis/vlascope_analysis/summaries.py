"""Results in words, for the terminal and the summary file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlascope_base.text import printable

from vlascope_analysis.statistics.splits import unit_name

if TYPE_CHECKING:
    from vlascope_analysis.analyses.probe.compute import ProbeResult
    from vlascope_analysis.analyses.sweep.compute import SweepResult


def probe_summary(where: Mapping[str, object], result: ProbeResult) -> str:
    """`where` says what was probed: name and value of each line of the head."""
    row = result.table.iloc[0]
    percent = f"{100 * row['confidence']:g} %"
    shuffled = (
        f"{row['shuffled_accuracy']:.4f} (mean of {row['permutations']:.0f} permutations; p = {row['p_value']:.3g})"
        if row["permutations"]
        else "not asked"
    )
    lines = [
        "Linear Probing Results",
        "======================",
        "",
        *(f"{key}: {printable(value)}" for key, value in where.items()),
        "",
        f"Accuracy: {row['accuracy']:.4f}   {percent} interval over {unit_name(row['interval_unit'])}s"
        f" {row['accuracy_low']:.4f} to {row['accuracy_high']:.4f}",
        f"Cosine Similarity: {row['cosine_similarity']:.4f}   {percent} interval"
        f" {row['cosine_similarity_low']:.4f} to {row['cosine_similarity_high']:.4f}",
        f"Number of Samples: {row['frames']:.0f}   in {row['episodes']:.0f} episodes;"
        f" tested: {row['test_frames']:.0f} in {row['test_units']:.0f} {unit_name(row['interval_unit'])}s",
        f"Number of Instructions: {row['instructions']:.0f}",
        "",
        "To compare with",
        f"  Chance: {row['chance']:.4f}",
        f"  Majority (best constant answer): {row['majority']:.4f}",
        f"  Shuffled labels: {shuffled}",
        f"  Cosine similarity of the mean label: {row['constant_cosine']:.4f}",
        "",
        "What the policy was told, test episodes, accuracy:",
    ]
    for told in result.instructions.to_dict("records"):
        tested = f"{told['accuracy']:.2f}" if told["test_frames"] else "not tested"
        lines.append(f"  {told['number']}: {in_words(told['instruction'])}   n = {told['test_episodes']}, {tested}")
    lines += [f"\nWarning: {printable(warning)}" for warning in result.warnings]
    return "\n".join(lines) + "\n"


def in_words(instruction: str) -> str:
    """An instruction for people: an empty one is named as such, and no character of it commands a terminal."""
    return printable(instruction) or "(no instruction)"


def sweep_summary(result: SweepResult) -> str:
    """The best cell of each expert, and what to make of it."""
    table = result.table
    row = table.iloc[0]
    lines = [
        f"Sweep of {len(table)} cells: {row['frames']} frames of {row['episodes']} episodes, which were told"
        f" {row['instructions']} instructions",
        f"chance {row['chance']:.3f}, majority {row['majority']:.3f}, cosine similarity of the mean label"
        f" {row['constant_cosine']:.3f}",
        "",
        "best cell of each expert",
        f"{'expert':<9} {'layer':>5} {'step':>4} {'accuracy':>8} {'interval':>14} {'cosine':>6} {'shuffled':>8}"
        f" {'p':>5} {'p of best':>9}",
    ]
    for expert, own in table.groupby("expert", sort=False):
        best = own.iloc[int(own["accuracy"].to_numpy().argmax())]
        layer, step = _axis(best["layer"]), _axis(best["denoise_step"])
        interval = f"{best['accuracy_low']:.3f} to {best['accuracy_high']:.3f}"
        lines.append(
            f"{expert:<9} {layer:>5} {step:>4} {best['accuracy']:>8.3f} {interval:>14} {best['cosine_similarity']:>6.3f}"
            f" {best['shuffled_accuracy']:>8.3f} {best['p_value']:>5.3f} {best['p_value_best']:>9.3f}"
        )
    lines += [
        "",
        "The best of many cells looks better than it is: its accuracy and interval are",
        "not corrected for having been chosen. `p of best` is: how often the best cell",
        "of this sweep does as well when labels are shuffled.",
        *(f"Warning: {printable(warning)}" for warning in result.warnings),
    ]
    return "\n".join(lines) + "\n"


def _axis(value: Any) -> str:
    """A layer or a denoise step; `-` where a cell has none."""
    return "-" if str(value) == "<NA>" else str(int(value))
