"""A probe's result in words."""

from __future__ import annotations

from vlascope_base.text import printable

from vlascope_analysis.data.labels import in_words
from vlascope_analysis.results import Result


def probe_summary(result: Result) -> str:
    """For the terminal and the summary file."""
    row = result.tables["scores"].iloc[0]
    percent, unit = f"{100 * row['confidence']:g} %", row["interval_unit"]
    shuffled = (
        f"{row['shuffled_accuracy']:.4f} (mean of {row['permutations']} permutations; p = {row['p_value']:.3g})"
        if row["permutations"]
        else "not asked"
    )
    lines = [
        "Linear Probing Results",
        "======================",
        "",
        *(f"{key}: {printable(value)}" for key, value in result.about.items()),
        "",
        f"Accuracy: {row['accuracy']:.4f}   {percent} interval over {unit}s"
        f" {row['accuracy_low']:.4f} to {row['accuracy_high']:.4f}",
        f"Rank Accuracy: {row['rank_accuracy']:.4f}   {percent} interval"
        f" {row['rank_accuracy_low']:.4f} to {row['rank_accuracy_high']:.4f}",
        f"Cosine Similarity: {row['cosine_similarity']:.4f}   {percent} interval"
        f" {row['cosine_similarity_low']:.4f} to {row['cosine_similarity_high']:.4f}",
        f"Number of Samples: {row['frames']}   in {row['episodes']} episodes; tested: {row['test_units']} {unit}s",
        f"Number of Instructions: {row['instructions']}",
        "",
        "To compare with",
        f"  Chance: {row['chance']:.4f}; of rank accuracy 0.5",
        f"  Permuted labels: {shuffled}",
        f"  Cosine similarity of the mean label: {row['constant_cosine']:.4f}",
        f"  Ridge regression in closed form: {row['closed_form_accuracy']:.4f}, {row['closed_form_accuracy_low']:.4f} to"
        f" {row['closed_form_accuracy_high']:.4f} (p = {row['closed_form_p_value']:.3g} of"
        f" {row['closed_form_permutations']} permutations)",
        "",
        verdict(row["p_value"], row["chance"], row["accuracy"])
        # fewer permutations can show no p value of 0.05
        if row["permutations"] >= 19
        else verdict(row["closed_form_p_value"], row["chance"], row["closed_form_accuracy"], "ridge regression's"),
        "",
        "What the policy was told, test episodes, accuracy:",
    ]
    for told in result.tables["instructions"].to_dict("records"):
        tested = f"{told['accuracy']:.2f}" if told["test_episodes"] else "not tested"
        lines.append(f"  {told['number']}: {in_words(told['instruction'])}   n = {told['test_episodes']}, {tested}")
    lines += [f"\nWarning: {printable(warning)}" for warning in result.warnings]
    return "\n".join(lines) + "\n"


def verdict(p: float, chance: float, accuracy: float, whose: str = "", level: float = 0.05) -> str:
    """What a p-value allows to say."""
    said = f"{whose} p = {p:.3g}".strip()
    if p <= level:
        return f"The instruction can be read here ({said})."
    return (
        f"Whether the instruction can be read here cannot be concluded ({said}): the accuracy of {accuracy:.3f} may be "
        f"chance ({chance:.3f}). That it is absent cannot be concluded either."
    )
