"""What can be wrong with a request to an analysis, said in one line. Knows nothing of how it is reported."""

from __future__ import annotations

from vlascope_base.text import printable


class AnalysisError(ValueError):
    """A request that the captured data cannot answer; the message says what was wrong, what there is, and what to do."""


def listed(values, limit: int = 20) -> str:
    """Values for an error message: runs of whole numbers as `0-9`, at most `limit` entries."""
    values = list(dict.fromkeys(values))
    if values and all(isinstance(value, int) for value in values):
        values = sorted(values)
        runs: list[list[int]] = []
        for value in values:
            if runs and value == runs[-1][1] + 1:
                runs[-1][1] = value
            else:
                runs.append([value, value])
        texts = [str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs]
    else:
        texts = [printable(value) for value in values]
    more = f", … ({len(texts)})" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more if texts else "none"
