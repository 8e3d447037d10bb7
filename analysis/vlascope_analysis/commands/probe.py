"""`vlascope-analysis probe`: the trained linear probe of one layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from vlascope_analysis.commands.probing import ProbingOptions, refuse_pickle, show
from vlascope_analysis.options import EvaluationConfig, Expert, TrainingConfig

if TYPE_CHECKING:
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.data.episodes import Numbered
    from vlascope_analysis.data.features import Slice
    from vlascope_analysis.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(ProbingOptions):
    """Trains a linear map from one layer's features to the embedding of what the policy was told, or to another label, and
    tests it on other episodes.

    Writes results_*.json, predictions_*.parquet, summary_*.txt, curve_*.png and confusion_*.png to the output folder.
    """

    expert: Expert
    """Whose states: the vlm over every captured token, the action expert, or the vlm over the tokens of the prompt."""
    layer: int | None = None
    """Transformer block, from 0. Needed for every component but embedding, final_hidden, x_t and v_t, which have none."""
    denoise_step: int | None = None
    """Step of the flow, from 0 (pure noise); the last that was captured unless given. For the action expert."""
    span: str | None = None
    """Tokens: image, a camera, text, state or action; every captured token of the expert unless given. Of attention, queries:
    the keys are features."""
    training: OmitArgPrefixes[TrainingConfig] = dataclasses.field(default_factory=TrainingConfig)
    # each permutation is a map to train; the closed form beside it has its own 199
    evaluation: OmitArgPrefixes[EvaluationConfig] = dataclasses.field(
        default_factory=lambda: EvaluationConfig(permutations=20)
    )

    def run(self) -> None:
        """Reads, trains, tests, writes."""
        self.training.check()
        self.check()
        refuse_pickle(self.output_dir, self._name())
        from vlascope_analysis.probes import require_training

        require_training()
        from vlascope_base.progress import shown

        from vlascope_analysis.analyses.probe.compute import Controls, probe
        from vlascope_analysis.data.encoders import open_encoder
        from vlascope_analysis.data.episodes import choose_episodes
        from vlascope_analysis.data.features import load_features
        from vlascope_analysis.data.labels import labels_of
        from vlascope_analysis.data.metadata_features import metadata_features
        from vlascope_analysis.data.opening import open_store

        store = open_store(self.store_path(), self.query)
        episodes, warnings = choose_episodes(store, self.query, self.label, self.features.timesteps)
        what = self._slice(store, episodes)
        encode = open_encoder(self.encoder or "minilm")
        with shown() as progress:
            features = load_features(store, episodes, what, self.features.timesteps, progress, self.features.frames)
            labels = labels_of(features.frames, self.label, encode)
            step, frames = self.features.timesteps, self.features.frames
            control, beside = self.control(store, episodes), None
            if control is not None:
                beside = control.features(features.frames, what, step, frames, progress)
            known = metadata_features(store, episodes, what, step, frames)
            controls = Controls(known, beside, control.name if control else "")
            result = probe(features, labels, self.training, self.evaluation, progress, controls=controls)
        self._write(store, episodes, what, dataclasses.replace(result, warnings=(*warnings, *result.warnings)))

    def _slice(self, store: LatentStore, episodes: list[Numbered]) -> Slice:
        from vlascope_base.text import listed

        from vlascope_analysis.data.features import Slice, captured_axes, stored_expert
        from vlascope_analysis.errors import AnalysisError

        axes = captured_axes(store, episodes, stored_expert(self.expert), self.features.component)
        if self.layer is None and "layer" in axes:
            raise AnalysisError(f"--layer: name one; captured: {listed(axes['layer'])}")
        steps = None if self.denoise_step is None else (self.denoise_step,)
        if steps is None and "denoise_step" in axes:
            steps = (axes["denoise_step"][-1],)
        layers = None if self.layer is None else (self.layer,)
        return Slice(self.expert, self.features.component, layers, steps, self.span, self.features.pool)

    def _name(self) -> str:
        """Of the result, as part of its files' names."""
        layer = "" if self.layer is None else f"_layer{self.layer}"
        denoise = "" if self.denoise_step is None else f"_denoise{self.denoise_step}"
        span = "" if self.span is None else f"_{self.span.replace('/', '-')}"
        return f"{self.expert}{layer}_{self.step_name()}{denoise}{span}{self.name_suffix()}"

    def _write(self, store: LatentStore, episodes: list[Numbered], what: Slice, result: Result) -> None:
        from vlascope_analysis.analyses.probe.confusion import confusion_figure
        from vlascope_analysis.analyses.probe.curve import curve_figure
        from vlascope_analysis.analyses.probe.summary import probe_summary
        from vlascope_analysis.analyses.words import label_line, question_in, scene_hint
        from vlascope_analysis.data.labels import in_words

        row = result.tables["scores"].iloc[0].to_dict()
        question = question_in(row)
        denoise = what.denoise_steps[0] if what.denoise_steps else None
        about = {
            "Expert": self.expert,
            "Layer": "-" if self.layer is None else self.layer,
            "Denoise Step": "-" if denoise is None else denoise,
            "Rollout Step": ", ".join(map(str, self.features.rollout_step)) or self.features.frames,
            "Feature Type": self.features.component,
            "Label": label_line(row),
        }
        result = dataclasses.replace(
            result,
            name=self._name(),
            about=about,
            provenance=self.provenance(store, episodes),
        )
        heading = ", ".join(f"{key.lower()} {value}" for key, value in about.items() if value != "-" and key != "Label")
        tested = (
            f"{heading}. {row['frames']} frames of {row['episodes']} episodes, {row['test_units']} {row['interval_unit']}s "
            f"tested. Accuracy {row['accuracy']:.2f} [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}], chance "
            f"{row['chance']:.2f}."
        )
        names = [in_words(text) for text in result.tables["classes"]["label"]]
        figures = {
            "curve": curve_figure(result.tables["history"], "Training of the linear probe", heading),
            "confusion": confusion_figure(
                result.tables["predictions"],
                names,
                question,
                f"Which {question.one} the probe reads{scene_hint(row)}",
                tested,
            ),
        }
        show(result, self.output_dir, probe_summary(result), figures)
