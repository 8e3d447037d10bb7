"""`vlascope-analysis sweep`: a ridge probe of every layer, denoise step and expert."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vlascope_analysis.commands.probing import ProbingOptions, warn
from vlascope_analysis.options import Expert

if TYPE_CHECKING:
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.analyses.sweep.compute import SweepResult
    from vlascope_analysis.data.episodes import Numbered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(ProbingOptions):
    """Probes every captured layer and denoise step with ridge regression in closed form.

    Writes sweep_*.json, sweep_*.parquet (one row a cell), summary_sweep_*.txt and heatmap_*.png to the output folder.
    """

    experts: tuple[Expert, ...] = ()
    """Whose states; everything that was captured unless given."""

    def run(self) -> None:
        """Reads, solves, tests, writes."""
        import os

        # Before JAX loads it: matrices this small gain nothing from LAPACK's threads, and where other processes want the
        # cores too, threads that wait for each other by spinning take ten times as long.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self.evaluation.check()
        from vlascope_base.progress import shown
        from vlascope_latents.store import LatentStore

        from vlascope_analysis.analyses.sweep.compute import captured_experts, sweep
        from vlascope_analysis.data.encoders import open_encoder
        from vlascope_analysis.data.episodes import choose_episodes

        store = LatentStore(self.store)
        episodes, warnings = choose_episodes(store, self.query)
        experts = self.experts or captured_experts(store, episodes, self.features.component)
        encode = open_encoder(self.encoder)
        with shown() as progress:
            result = sweep(store, episodes, experts, self.features, self.evaluation, encode, progress)
        self._write(store, episodes, dataclasses.replace(result, warnings=(*warnings, *result.warnings)))

    def _write(self, store: LatentStore, episodes: list[Numbered], result: SweepResult) -> None:
        from vlascope_analysis.analyses.style import save
        from vlascope_analysis.analyses.sweep.heatmap import heatmap_figure
        from vlascope_analysis.results import records, write_json, write_table, write_text
        from vlascope_analysis.statistics.splits import unit_name
        from vlascope_analysis.summaries import sweep_summary

        warn(result.warnings)
        only = "".join(f"_{expert}" for expert in self.experts)
        stem = f"{self.step_name()}{only}{self.name_suffix()}"
        row = result.table.iloc[0]
        steps = ", ".join(map(str, self.features.rollout_step)) or "all"
        about = (
            f"{self.features.component}, rollout step {steps}: {row['frames']} frames of "
            f"{row['episodes']} episodes, which were told {row['instructions']} instructions; {row['test_units']} "
            f"{unit_name(self.evaluation.split)}s tested. Colour starts at the majority baseline ({row['majority']:.2f}). "
            f"Dot: the {100 * row['confidence']:g} % interval does not exceed it. "
            "Frame: the best cell."
        )
        content = {
            "analysis": "sweep",
            "label": "instruction: what the policy was told",
            "cells": records(result.table),
            "instructions": [
                {"number": number, "instruction": instruction, "task_id": task_id}
                for number, (instruction, task_id) in enumerate(
                    zip(result.labels.instructions, result.labels.task_ids, strict=True)
                )
            ],
            "warnings": result.warnings,
            **self.provenance(store, episodes),
        }
        text = sweep_summary(result)
        title = "Where the instruction can be read"
        paths = [
            write_json(self.output_dir / f"sweep_{stem}.json", content),
            write_table(self.output_dir / f"sweep_{stem}.parquet", result.table),
            write_text(self.output_dir / f"summary_sweep_{stem}.txt", text),
            save(heatmap_figure(result.table, title, about), self.output_dir / f"heatmap_{stem}.png"),
        ]
        print(text)
        print("\n".join(map(str, paths)))
