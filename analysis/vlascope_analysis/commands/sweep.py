"""`vlascope-analysis sweep`: a ridge probe of every layer, denoise step and expert. Knows nothing of how they are solved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from vlascope_base.text import printable

from vlascope_analysis.commands.options import ProbingOptions

if TYPE_CHECKING:
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.episodes import Numbered
    from vlascope_analysis.sweep import SweepResult


@dataclasses.dataclass(kw_only=True)
class Sweep(ProbingOptions):
    """Probes every captured layer and denoise step with ridge regression in closed form.

    Writes sweep_*.json, sweep_*.parquet (one row a cell), summary_sweep_*.txt and heatmap_*.png to the output folder.
    """

    experts: tuple[Literal["vlm", "action", "text_only"], ...] = ()
    """Whose states; everything that was captured unless given."""

    def run(self) -> None:
        """Reads, solves, tests, writes."""
        import os

        # Before JAX loads it: matrices this small gain nothing from LAPACK's threads, and where other processes want the
        # cores too, threads that wait for each other by spinning take ten times as long.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from vlascope_latents.store import LatentStore

        from vlascope_analysis.encoders import open_encoder
        from vlascope_analysis.episodes import choose_episodes
        from vlascope_analysis.progress import rich_progress
        from vlascope_analysis.sweep import captured_experts, sweep

        evaluation = self.evaluation()
        store = LatentStore(self.store)
        episodes, warnings = choose_episodes(store, self.query())
        experts = self.experts or captured_experts(store, episodes, self.component)
        encode = open_encoder(self.encoder)
        with rich_progress() as progress:
            result = sweep(
                store, episodes, experts, evaluation, encode, component=self.component, pool=self.pool,
                timesteps=self.timesteps, progress=progress,
            )  # fmt: skip
        self._write(store, episodes, dataclasses.replace(result, warnings=(*warnings, *result.warnings)))

    def _write(self, store: LatentStore, episodes: list[Numbered], result: SweepResult) -> None:
        import logging

        from vlascope_analysis.figures import heatmap_figure, save
        from vlascope_analysis.results import records, write_json, write_table, write_text
        from vlascope_analysis.splits import unit_name
        from vlascope_analysis.summaries import sweep_summary

        for warning in result.warnings:
            logging.getLogger(__name__).warning("%s", printable(warning))
        only = "".join(f"_{expert}" for expert in self.experts)
        stem = f"{self.step_name()}{only}{self.name_suffix()}"
        row = result.table.iloc[0]
        about = (
            f"{self.component}, rollout step {', '.join(map(str, self.rollout_step)) or 'all'}: {row['frames']} frames of "
            f"{row['episodes']} episodes, which were told {row['instructions']} instructions; {row['test_units']} "
            f"{unit_name(self.split)}s tested. Colour starts at the majority baseline ({row['majority']:.2f}). "
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
