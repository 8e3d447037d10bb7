"""A probe's result in words."""

from __future__ import annotations

from vlascope_base.text import printable

from vlascope_analysis.analyses.words import (
    baseline_lines,
    but_the_scene,
    control_lines,
    design_lines,
    question_in,
    sentence,
)
from vlascope_analysis.data.labels import in_words
from vlascope_analysis.results import Result
from vlascope_analysis.statistics.permutation import LEVEL


def probe_summary(result: Result) -> str:
    """For the terminal and the summary file."""
    row = result.tables["scores"].iloc[0].to_dict()
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
        *design_lines(row),
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
        f"Number of {sentence(question_in(row).several)}: {row['classes']}",
        "",
        "To compare with",
        f"  Chance: {row['chance']:.4f}; of rank accuracy 0.5",
        f"  Permuted labels: {shuffled}",
        f"  Cosine similarity of the mean label: {row['constant_cosine']:.4f}",
        f"  Ridge regression in closed form: {row['closed_form_accuracy']:.4f}, {row['closed_form_accuracy_low']:.4f} to"
        f" {row['closed_form_accuracy_high']:.4f} (p = {row['closed_form_p_value']:.3g} of"
        f" {row['closed_form_permutations']} permutations)",
        "",
        verdict(result),
        *control_lines(row),
        "",
        *baseline_lines(result.tables["baselines"], "Ridge regression on these features"),
        "",
        f"{sentence(question_in(row).meaning)}, test episodes, accuracy:",
    ]
    for told in result.tables["classes"].to_dict("records"):
        tested = f"{told['accuracy']:.2f}" if told["test_episodes"] else "not tested"
        lines.append(f"  {told['number']}: {in_words(told['label'])}   n = {told['test_episodes']}, {tested}")
    lines += [f"\nWarning: {printable(warning)}" for warning in result.warnings]
    return "\n".join(lines) + "\n"


def verdict(result: Result) -> str:
    """What the p-value and the interval of the rank accuracy, which is what is tested, allow to say."""
    row = result.tables["scores"].iloc[0].to_dict()
    question = question_in(row)
    # fewer permutations can show no p value of 0.05
    trained = row["permutations"] >= 19
    p, whose = (row["p_value"], "") if trained else (row["closed_form_p_value"], "of ridge regression, ")
    rank = f"rank accuracy {row['rank_accuracy']:.3f}, chance 0.5" if trained else "rank accuracy"
    if p <= LEVEL:
        more = (
            ""
            if row["accuracy_low"] > row["chance"]
            else f" That the nearest {question.one} is more often the true one than by chance cannot be concluded."
        )
        return f"{sentence(question.it)} can be told from others here ({whose}{rank}; p = {p:.3g}).{more}{but_the_scene(row)}"
    if row["rank_accuracy_low"] > 0.5:
        return (
            f"Permuted labels are read as well as the true ones ({whose}p = {p:.3g}), although the interval of the rank "
            "accuracy is above chance: nothing can be concluded. Too few arrangements of the labels may be possible."
        )
    return (
        f"Whether {question.it} can be read here cannot be concluded ({whose}{rank}; p = {p:.3g}). That it is absent cannot "
        "be concluded either."
    )
