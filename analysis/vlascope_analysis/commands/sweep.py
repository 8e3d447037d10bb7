"""`vlascope-analysis sweep`: a ridge probe of every layer, denoise step and expert."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from vlascope_analysis.commands.probing import ProbingOptions, refuse_pickle, show
from vlascope_analysis.options import Expert, Windows

if TYPE_CHECKING:
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.data.episodes import Numbered
    from vlascope_analysis.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(ProbingOptions):
    """Probes every captured layer and denoise step with ridge regression in closed form.

    Writes results_sweep_*.json, cells_sweep_*.parquet (one row a cell), episodes_sweep_*.parquet and
    tested_sweep_*.parquet (what each episode scored), summary_sweep_*.txt and heatmap_sweep_*.png to the output
    folder.
    """

    experts: tuple[Expert, ...] = ()
    """Whose states; everything that was captured unless given."""
    by: Windows | None = None
    """A cell for each rollout step (`timestep`), part of an episode (`fraction`), or side of the grasp (`grasp`: before the
    first frame whose action closes the gripper, and from it on), beside layers and denoise steps; all frames together unless
    given."""
    parts: int = 4
    """How many parts of an episode, for --by fraction."""

    def run(self) -> None:
        """Reads, solves, tests, writes."""
        import os

        # Before numpy loads it: matrices this small gain nothing from LAPACK's threads, and where other processes want the
        # cores too, threads that wait for each other by spinning take ten times as long.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self.check()
        refuse_pickle(self.output_dir, self._name())
        from vlascope_base.progress import shown

        from vlascope_analysis.analyses.sweep.compute import Wanted, captured_experts, sweep
        from vlascope_analysis.data.encoders import open_encoder
        from vlascope_analysis.data.episodes import choose_episodes
        from vlascope_analysis.data.labels import labels_of
        from vlascope_analysis.data.opening import open_store

        store = open_store(self.store_path(), self.query)
        episodes, warnings = choose_episodes(store, self.query, self.label, self.features.timesteps)
        experts = self.experts or captured_experts(store, episodes, self.features.component)
        labels = functools.partial(labels_of, label=self.label, encode=open_encoder(self.encoder or "minilm"))
        control = self.control(store, episodes)
        with shown() as progress:
            wanted = Wanted(experts, self.features, self.by, self.parts)
            result = sweep(store, episodes, wanted, self.evaluation, labels, progress, control=control)
        self._write(store, episodes, dataclasses.replace(result, warnings=(*warnings, *result.warnings)))

    def _name(self) -> str:
        """Of the result, as part of its files' names."""
        only = "".join(f"_{expert}" for expert in self.experts)
        windows = "" if self.by is None else f"_by_{self.by}{self.parts if self.by == 'fraction' else ''}"
        return f"sweep_{self.step_name()}{only}{windows}{self.name_suffix()}"

    def _write(self, store: LatentStore, episodes: list[Numbered], result: Result) -> None:
        from vlascope_analysis.analyses.sweep.heatmap import heatmap_figure
        from vlascope_analysis.analyses.sweep.summary import sweep_summary
        from vlascope_analysis.analyses.words import label_line, question_in, scene_hint, scene_tells
        from vlascope_analysis.statistics.evaluation import readable
        from vlascope_analysis.statistics.permutation import LEVEL

        # as in `sweep`: windows of an episode's own time take every frame
        frames = "all" if self.by in ("fraction", "grasp") else self.features.frames
        chosen = ", ".join(map(str, self.features.rollout_step))
        steps = f"rollout step {chosen}" if chosen else f"{frames} rollout steps"
        cells = result.tables["cells"]
        row = cells.iloc[0].to_dict()
        question = question_in(row)
        result = dataclasses.replace(
            result,
            name=self._name(),
            about={
                "component": self.features.component,
                "rollout_step": chosen or frames,
                "by": self.by,
                "label": label_line(row),
            },
            provenance=self.provenance(store, episodes),
        )
        told = f"{row['episodes']} episodes with {row['classes']} {question.several}"
        told += f" (which the scene alone tells: {row['scene_accuracy']:.2f})" * scene_tells(row)
        if row["permutations"]:
            dot = f"not told from chance among all cells (p of best above {LEVEL})"
        else:
            dot = f"its {100 * row['confidence']:g} % interval does not exceed chance"
        about = (
            f"{self.features.component}, {steps}: {told}; {row['test_units']} {row['interval_unit']}s tested. Colour starts "
            f"at chance ({row['chance']:.2f}). Dot: {dot}. Frame: the best cell by rank accuracy."
        )
        found = any(readable(cell, "p_value_best") for cell in cells.to_dict("records"))
        title = (
            f"Where {question.it} can be read{scene_hint(row)}"
            if found
            else f"No cell in which {question.it} can be read was found"
        )
        window = {"timestep": "rollout step", "fraction": "part of the episode", "grasp": ""}[self.by or "grasp"]
        figures = {"heatmap": heatmap_figure(cells, title, about, window)}
        show(result, self.output_dir, sweep_summary(result), figures)
