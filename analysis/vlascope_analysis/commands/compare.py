"""`vlascope-analysis compare`: differences between cells of sweeps, with paired intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional
from vlascope_base.options import CommandOptions, ConfigFile

from vlascope_analysis.commands.probing import refuse_pickle, show


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(CommandOptions, ConfigFile):
    """Compares cells of one sweep with each other, or the same cells of two sweeps (of two policies, two campaigns).

    Episodes are paired: both cells answered the same ones, from the same initial state and told the same, and predict one
    label. Writes results_*.json, summary_*.txt and differences_*.png to the output folder.
    """

    results: Positional[tuple[Path, ...]]
    """One or two results_sweep_*.json."""
    cells: tuple[str, ...] = ()
    """Cells, as EXPERT:LAYER:DENOISE_STEP@WINDOW: `vlm:5`, `action:10:9`. Of one sweep at least two, of which each pair is
    compared; of two sweeps every cell that both have unless given."""
    score: Literal["accuracy", "rank_accuracy", "cosine_similarity"] = "accuracy"
    """What to compare."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    output_dir: Path = Path("results/linear_probing")
    """Folder of results; made where it is missing. Files of the same name are replaced."""

    def run(self) -> None:
        """Reads, compares, writes."""
        from vlascope_analysis.analyses.compare.compute import CellName, compare_cells, compare_sweeps
        from vlascope_analysis.analyses.compare.summary import compare_summary, differences_figure
        from vlascope_analysis.errors import AnalysisError
        from vlascope_analysis.results import read_result

        if not 0 < self.confidence < 1:
            raise AnalysisError(f"--confidence {self.confidence}: expected a share between 0 and 1")
        if not 1 <= len(self.results) <= 2:
            raise AnalysisError(f"{len(self.results)} results: expected one sweep, or two")
        names = [CellName.parse(text) for text in self.cells]
        sweeps = [read_result(path) for path in self.results]
        cells = "_" + "-".join(text.replace(":", ".").replace("@", "at").replace(" ", "") for text in self.cells)
        of = sweeps[0].name if len(sweeps) == 1 else "_with_".join(map(_file_name, self.results))
        name = f"compare_{of}{cells * bool(names)}_{self.score}"
        refuse_pickle(self.output_dir, name)
        if len(sweeps) == 1:
            result = compare_cells(sweeps[0], names, self.score, self.confidence)
        else:
            result = compare_sweeps(sweeps[0], sweeps[1], names, self.score, self.confidence)
        result = dataclasses.replace(
            result,
            name=name,
            about={"of": [str(path) for path in self.results], "cells": list(self.cells)},
            provenance={
                "config": {"results": [str(path) for path in self.results], "cells": list(self.cells), "score": self.score,
                           "confidence": self.confidence, "output_dir": str(self.output_dir)},
                "data": [{"result": sweep.name, "config": sweep.provenance.get("config"), "data": sweep.provenance.get("data")}
                         for sweep in sweeps],
            },
        )  # fmt: skip
        about = (
            f"{self.score.replace('_', ' ')}; thick: {100 * self.confidence:g} % interval; thin: of all rows together."
        )
        figure = differences_figure(result.tables["differences"], "Differences between cells", about)
        show(result, self.output_dir, compare_summary(result, self.confidence), {"differences": figure})


def _file_name(path: Path) -> str:
    """A sweep by its folder and name, since sweeps of two policies are often called alike."""
    return "-".join(filter(None, (path.absolute().parent.name, path.stem.removeprefix("results_"))))
