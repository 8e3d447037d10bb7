"""What the probing subcommands share: their options, names of files, and what every result says of its origin."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional
from vlascope_base.options import UNRECORDED, CommandOptions, ConfigFile
from vlascope_base.text import printable

from vlascope_analysis.options import EpisodeQuery, EvaluationConfig, FeatureOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.data.episodes import Numbered
    from vlascope_analysis.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbingOptions(CommandOptions, ConfigFile):
    """Which frames, which labels, how to test, and where results go."""

    store: Positional[Path]
    """A run, or a folder of runs."""
    query: OmitArgPrefixes[EpisodeQuery] = dataclasses.field(default_factory=EpisodeQuery)
    features: OmitArgPrefixes[FeatureOptions] = dataclasses.field(default_factory=FeatureOptions)
    encoder: str = "minilm"
    """Text encoder of the instructions: `minilm` (all-MiniLM-L6-v2: no torch, no network), `onehot` (an axis of
    its own for each, so that look-alikes cap nothing), or a T5 (`t5-small`, a folder)."""
    evaluation: OmitArgPrefixes[EvaluationConfig] = dataclasses.field(default_factory=EvaluationConfig)
    output_dir: Path = Path("results/linear_probing")
    """Folder of results; made where it is missing. Files of the same name are replaced."""

    def step_name(self) -> str:
        """The rollout steps as part of a file's name."""
        steps = self.features.rollout_step
        if len(steps) > 4:
            return f"step{min(steps)}to{max(steps)}x{len(steps)}"
        return "step" + ("-".join(map(str, steps)) if steps else "all")

    def name_suffix(self) -> str:
        """What else a file's name must say, so that no two settings share one: options that the reference has not."""
        usual = {
            "component": "hidden_states",
            "pool": "mean",
            "frames": "common",
            "encoder": "minilm",
            "split": "scene",
        }
        chosen = self.flat()
        given = [Path(str(chosen[name])).name for name, value in usual.items() if chosen[name] != value]
        # two parts of one run, such as those that a cell is chosen on and tested on, must not replace each other
        ranges = {"tasks": self.query.task_range, "episodes": self.query.episode_range}
        given += [f"{name}{bounds[0]}to{bounds[1]}" for name, bounds in ranges.items() if bounds]
        given += [name for name in (self.query.suite, self.query.run_name, self.query.campaign) if name]
        given += ["interrupted"] * self.query.interrupted
        left_out = self.query.exclude_episodes
        given += [
            "without" + (printable(left_out[0]).replace("/", "-") if len(left_out) == 1 else str(len(left_out)))
        ] * bool(left_out)
        given += [f"folds{self.evaluation.folds}"] * (self.evaluation.folds is not None)
        given += [f"seed{self.evaluation.seed}"] * (self.evaluation.seed != EvaluationConfig().seed)
        return "".join(f"_{value}" for value in given)

    def flat(self) -> dict[str, object]:
        """Every option by its name on the command line, as results keep them."""
        return {name: value for name, value in _flat(self).items() if name not in UNRECORDED}

    def provenance(self, store: LatentStore, episodes: Sequence[Numbered]) -> dict[str, object]:
        """Configuration and data, as every result carries them."""
        used = {e.episode.run for e in episodes}
        return {
            "config": self.flat(),
            "data": {
                "store": str(store.path.resolve()),
                "runs": [{"name": run.name, "created": run.created, "model": run.model, "versions": run.versions}
                         for run in store.runs if run.name in used],
                "episodes": [{"run": e.episode.run, "campaign": e.episode.campaign, "episode": e.episode.id,
                              "attempt": e.episode.row.attempt, "suite": e.suite, "task_id": e.task,
                              "episode_index": e.number} for e in episodes],
            },
        }  # fmt: skip


def show(result: Result, folder: Path, summary: str, figures: Mapping[str, Figure]) -> None:
    """Writes a result, warns of what its reader should know first, and prints the summary and the files."""
    from vlascope_analysis.results import write_result

    for warning in result.warnings:
        logging.getLogger(__name__).warning("%s", printable(warning))
    files = write_result(result, folder, summary, figures)
    print(summary)
    print("\n".join(map(str, files)))


def _flat(options: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in dataclasses.fields(options):  # pyright: ignore[reportArgumentType]
        value = getattr(options, field.name)
        found |= _flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return found
