"""Whether categories occur equally often: Pearson's chi-square test against the uniform distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def balance(counts: Mapping[str, int], level: float = 0.05) -> dict[str, Any]:
    """Tests counts of independent episodes.

    Args:
        counts: by category.
        level: below which p is called unbalanced.

    Returns:
        `categories`, `expected` count of each, `chi2`, `degrees_of_freedom`, `p_value`, `ratio` of the largest to the smallest
        count, `cramers_v` (0 balanced, 1 all in one; Cohen's w scaled by its largest value), `balanced` (p at or above
        `level`), and `reliable`: the approximation asks for five expected in each (Cochran 1954). With fewer than two
        categories all but `categories` are None.
    """
    total, k = sum(counts.values()), len(counts)
    if k < 2 or not total:
        empty = dict.fromkeys(
            ("expected", "chi2", "degrees_of_freedom", "p_value", "ratio", "cramers_v", "balanced", "reliable")
        )
        return {"categories": k, **empty}
    expected = total / k
    chi2 = sum((count - expected) ** 2 for count in counts.values()) / expected
    p = chi2_tail(chi2, k - 1)
    smallest = min(counts.values())
    return {
        "categories": k,
        "expected": expected,
        "chi2": chi2,
        "degrees_of_freedom": k - 1,
        "p_value": p,
        "ratio": max(counts.values()) / smallest if smallest else None,
        "cramers_v": math.sqrt(chi2 / (total * (k - 1))),
        "balanced": p >= level,
        "reliable": expected >= 5,
    }


def chi2_tail(x: float, degrees: int) -> float:
    """P(X >= x) of the chi-square distribution: Q(degrees / 2, x / 2), by recurrence from Q(1/2) or Q(1) (DLMF 8.8.6)."""
    half = x / 2
    if half == 0:
        return 1.0
    a, q = (0.5, math.erfc(math.sqrt(half))) if degrees % 2 else (1.0, math.exp(-half))
    while a < degrees / 2:
        q += math.exp(a * math.log(half) - half - math.lgamma(a + 1))
        a += 1
    return min(q, 1.0)
