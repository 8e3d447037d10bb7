"""Differences between cells: layer against layer, expert against expert, policy against policy. From sweeps to a result.

Both cells answered the same episodes (the same initial state, told the same), so that each episode gives a difference, and its
interval is that of paired differences: what both find hard moves neither.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from vlascope_base.text import listed

from vlascope_analysis.data.questions import question_of
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.results import Result
from vlascope_analysis.statistics.intervals import INFLATION, Means

MANY = 10
"""Independent units from which a difference is reported without a warning."""

Score = Literal["accuracy", "rank_accuracy", "cosine_similarity"]
"""What is compared."""

_CELL = re.compile(r"(?P<expert>[a-z_]+)(:(?P<layer>\d+|-))?(:(?P<step>\d+))?(@(?P<window>.+))?")
_PAIRED = ["suite", "task_id", "init_state", "instruction"]
"""What two episodes share that are compared with each other."""


@dataclasses.dataclass(frozen=True)
class CellName:
    """A cell as a person names it: `EXPERT[:LAYER[:DENOISE_STEP]][@WINDOW]`, for example `vlm:5` or `action:10:9@20`."""

    text: str
    expert: str
    layer: int | None
    step: int | None
    window: str | None

    @classmethod
    def parse(cls, text: str) -> CellName:
        """Reads a name.

        Raises:
            AnalysisError: it is none.
        """
        match = _CELL.fullmatch(text)
        if match is None:
            raise AnalysisError(
                f"--cells {text!r}: expected EXPERT:LAYER:DENOISE_STEP@WINDOW, as far as the sweep has them: `vlm:5`, "
                "`action:10:9`, `action:10:9@20`"
            )
        layer = None if match["layer"] in (None, "-") else int(match["layer"])
        return cls(text, match["expert"], layer, None if match["step"] is None else int(match["step"]), match["window"])

    def find(self, result: Result) -> int:
        """The number of the cell in a sweep.

        Raises:
            AnalysisError: there is none, or it was not scored.
        """
        cells = result.tables["cells"]
        own = cells.loc[cells["expert"] == self.expert]
        if own.empty:
            raise AnalysisError(
                f"--cells {self.text}: no such expert; the sweep has {listed(sorted(set(cells['expert'])))}"
            )
        for column, value in (("layer", self.layer), ("denoise_step", self.step), ("window", self.window)):
            if column not in own:
                if value is not None:
                    raise AnalysisError(f"--cells {self.text}: the sweep has no windows; make it with --by")
                continue
            there = sorted(set(own.loc[own[column].notna(), column].tolist()))
            own = own.loc[own[column].isna() if value is None else own[column] == value]
            if own.empty:
                raise AnalysisError(
                    f"--cells {self.text}: {column} {value} is not there; the sweep has {listed(there)}"
                )
        number, note = own.index.tolist()[0], own["note"].tolist()[0]
        if note:
            raise AnalysisError(f"--cells {self.text}: not scored: its features are {note}")
        return number


def compare_cells(result: Result, names: Sequence[CellName], score: Score, confidence: float) -> Result:
    """Differences of each pair of some cells of one sweep, the first minus the second.

    Returns:
        Table `differences`: first, second, the score of both, their difference with its interval, and an interval
        that holds for all rows together.

    Raises:
        AnalysisError: fewer than two cells, or one that is not there.
    """
    if len(names) < 2:
        raise AnalysisError("--cells: name at least two cells of one sweep, such as `vlm:5 action:10:9`")
    _is_sweep(result)
    if twice := sorted({name.text for name in names if [other.text for other in names].count(name.text) > 1}):
        raise AnalysisError(f"--cells: {listed(twice)} stands twice; a cell is compared with others")
    found = [(name.text, _scores(result, name.find(result), score)) for name in names]
    means = _means(result.tables["tested"], result)
    pairs = [(a, b) for a, b in itertools.combinations(found, 2)]
    rows = [_row(a[0], b[0], a[1], b[1], means, score, confidence, len(pairs)) for a, b in pairs]
    return _result(rows, means, score, ())


def compare_sweeps(first: Result, second: Result, names: Sequence[CellName], score: Score, confidence: float) -> Result:
    """Differences of the same cells of two sweeps, such as those of two policies: the first sweep minus the second.

    Episodes are paired that begin from the same initial state and were told the same; others are left out, with a warning.

    Args:
        first, second: sweeps with the same seed and folds.
        names: cells to compare; every cell that both have unless told.
        score: what to compare.
        confidence: of the intervals.

    Raises:
        AnalysisError: no episodes can be paired, no cell is shared, or the sweeps were tested in different ways.
    """
    for result in (first, second):
        _is_sweep(result)
    one, other = first.tables["cells"].iloc[0], second.tables["cells"].iloc[0]
    if one["label_name"] != other["label_name"]:
        raise AnalysisError(
            f"the sweeps predict different labels, {one['label_name']} and {other['label_name']}: their scores cannot be "
            "compared"
        )
    for name in ("split", "folds", "assignments", "interval_unit"):
        if one[name] != other[name]:
            raise AnalysisError(f"the sweeps were tested in different ways: {name} {one[name]} and {other[name]}")
    ours, theirs = _paired(first.tables["tested"], second.tables["tested"])
    warnings = []
    for result, own in ((first, ours), (second, theirs)):
        lost = len(result.tables["tested"]) - len(own)
        if lost:
            warnings.append(f"{lost} episodes of {result.name} have no partner in the other sweep: left out")
    asked = [result.provenance.get("config") or {} for result in (first, second)]
    other_ways = [
        n
        for n in ("encoder", "component", "pool", "frames", "rollout_step", "seed")
        if asked[0].get(n) != asked[1].get(n)
    ]
    if other_ways:
        told = "; ".join(f"{name} {asked[0].get(name)} and {asked[1].get(name)}" for name in other_ways)
        warnings.append(f"the sweeps differ in more than their policies: {told}")
    if set(first.tables["classes"]["label"]) != set(second.tables["classes"]["label"]):
        several = question_of(str(one["label_name"])).several
        warnings.append(f"the sweeps tell different {several} apart: their scores are of different questions")
    chosen = [(name.text, name.find(first), name.find(second)) for name in names] or _shared(first, second)
    paired = first.tables["tested"].iloc[ours]
    means = _means(paired.assign(pool=pd.factorize(paired["pool"])[0]), first)
    rows = []
    for text, a, b in chosen:
        values = _scores(first, a, score)[:, ours], _scores(second, b, score)[:, theirs]
        ours_named, theirs_named = (f"{name} {text}" for name in _names(first, second))
        rows.append(_row(ours_named, theirs_named, *values, means, score, confidence, len(chosen)))
    return _result(rows, means, score, tuple(warnings))


def _names(first: Result, second: Result) -> tuple[str, str]:
    """What the sweeps are called: which is which where their names are one, as of two policies that were swept in the
    same way.
    """
    return (first.name, second.name) if first.name != second.name else ("first", "second")


def _is_sweep(result: Result) -> None:
    if result.analysis != "sweep":
        raise AnalysisError(f"{result.name}: a result of `{result.analysis}`; cells are compared of results of `sweep`")
    if "label_name" not in result.tables["cells"]:
        raise AnalysisError(f"{result.name}: a sweep of an older vlascope, which does not say its label: make it again")


def _scores(result: Result, cell: int, score: Score) -> np.ndarray:
    """What each tested episode scored in a cell: float64 [assignments, T]."""
    own = result.tables["episodes"]
    own = own.loc[own["cell"] == cell]
    return np.asarray(own[score], np.float64).reshape(len(set(own["assignment"])), -1)


def _means(tested: pd.DataFrame, result: Result) -> Means:
    several = result.tables["cells"]["assignments"].iloc[0] > 1
    label, unit, pool = (tested[name].to_numpy() for name in ("label", "unit", "pool"))
    return Means(label, unit, INFLATION if several else 1.0, pool)


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Places of the episodes that both have; those that were repeated from one state are paired in their order."""
    keyed = [
        t.assign(again=t.groupby(_PAIRED, dropna=False).cumcount(), place=np.arange(len(t))) for t in (first, second)
    ]
    both = keyed[0].merge(keyed[1], on=[*_PAIRED, "again"], suffixes=("", "_other"))
    if both.empty:
        raise AnalysisError(
            "no episode of one sweep begins from the same initial state, told the same, as one of the other"
        )
    return both["place"].to_numpy(), both["place_other"].to_numpy()


def _shared(first: Result, second: Result) -> list[tuple[str, int, int]]:
    """Name and numbers of the cells that both sweeps scored."""
    numbers = [
        {_name(row): number for number, row in enumerate(result.tables["cells"].to_dict("records")) if not row["note"]}
        for result in (first, second)
    ]
    found = [(name, own, numbers[1][name]) for name, own in numbers[0].items() if name in numbers[1]]
    if not found:
        raise AnalysisError("the sweeps share no cell: name cells of models of the same layout with --cells")
    return found


def _name(row: Mapping[Hashable, Any]) -> str:
    layer, step = (None if pd.isna(row[name]) else int(row[name]) for name in ("layer", "denoise_step"))
    text = str(row["expert"])
    text += f":{'-' if layer is None else layer}" if layer is not None or step is not None else ""
    text += "" if step is None else f":{step}"
    return text + (f"@{row['window']}" if "window" in row else "")


def _row(
    first: str, second: str, a: np.ndarray, b: np.ndarray, means: Means, score: Score, confidence: float, rows: int
) -> dict[str, object]:
    # cosines are no shares: a pair that was added would outweigh their small differences
    interval = means.any if score == "cosine_similarity" else means.difference
    own = interval(a - b, confidence)
    # all intervals hold together with the asked confidence (Bonferroni)
    together = interval(a - b, 1 - (1 - confidence) / rows)
    return {
        "first": first, "second": second,
        "first_score": float(means.mean(a).mean()), "second_score": float(means.mean(b).mean()),
        "difference": own.mean, "low": own.low, "high": own.high,
        "low_together": together.low, "high_together": together.high,
        "differs": bool(together.low > 0 or together.high < 0),
    }  # fmt: skip


def _result(rows: list[dict[str, object]], means: Means, score: Score, warnings: tuple[str, ...]) -> Result:
    table = pd.DataFrame(rows).assign(score=score, test_units=len(np.unique(means.units)), episodes=len(means.label))
    units = len(np.unique(means.units))
    if units < MANY:
        warnings += (f"only {units} independent units: too few for a difference and its interval to mean much",)
    return Result("compare", {"differences": table}, (), warnings)
