"""What the probing subcommands share: their options, names of files, and what every result says of its origin."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg
from vlascope_base.errors import OptionError
from vlascope_base.options import UNRECORDED, CommandOptions, ConfigFile, word_of
from vlascope_base.text import printable

from vlascope_analysis.data.questions import TEXTS
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery, EvaluationConfig, FeatureOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from vlascope_latents.store import LatentStore

    from vlascope_analysis.data.control import ControlRun
    from vlascope_analysis.data.episodes import Numbered
    from vlascope_analysis.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbingOptions(CommandOptions, ConfigFile):
    """Which frames, which labels, how to test, and where results go."""

    store: Annotated[Positional[Path | None], arg(metavar="[STORE]")] = None
    """A run, a folder of runs, or pickles of the reference: one `task_*.pkl`, or a folder of them. They are imported into the
    cache folder first; nothing in a pickle is run, only numpy arrays are read."""
    data_path: Path | None = None
    """Another way to name the store; one of the two is needed."""
    query: OmitArgPrefixes[EpisodeQuery] = dataclasses.field(default_factory=EpisodeQuery)
    features: OmitArgPrefixes[FeatureOptions] = dataclasses.field(default_factory=FeatureOptions)
    label: str = "instruction"
    """What to predict of an episode: `instruction` (what the policy was told), `task_instruction` (what the scene's own task
    says), `told_object`, `lifted_first`, `success`, any other of its metadata, or an annotation that does not change in it."""
    encoder: str | None = None
    """Text encoder of instructions: `minilm` (all-MiniLM-L6-v2: no torch, no network; the usual one), `onehot` (an axis of
    its own for each, so that look-alikes cap nothing), or a T5 (`t5-small`, a folder). Any other label is one-hot."""
    control_run: Path | None = None
    """A run of the same frames through weights at random, of the same architecture: each cell is scored on it too
    (`vlascope-server capture --checkpoint drawn:0 --like CHECKPOINT`)."""
    evaluation: OmitArgPrefixes[EvaluationConfig] = dataclasses.field(default_factory=EvaluationConfig)
    output_dir: Path = Path("results/linear_probing")
    """Folder of results; made where it is missing. Files of the same name are replaced."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Any:
        """As `ConfigFile`. A store that the command line names counts instead of the file's, whichever way each is named."""
        found = super().defaults(args)
        if found is None:
            return None
        if found.store and found.data_path and not _same(found.store, found.data_path):
            raise OptionError(
                f"{word_of('--config', args)}: names two stores, store {found.store} and data_path {found.data_path}: leave one"
            )
        store = None if word_of("--data-path", args) else found.store or found.data_path
        return dataclasses.replace(found, store=store, data_path=None)

    def store_path(self) -> Path:
        """What to read, whichever way it was named.

        Raises:
            AnalysisError: nothing is named, or two things are.
        """
        if self.store and self.data_path and not _same(self.store, self.data_path):
            raise AnalysisError(f"two stores are named, {self.store} and --data-path {self.data_path}: leave one")
        path = self.store or self.data_path
        if path is None:
            raise AnalysisError(
                "no store is named: give STORE, the first word, or --data-path, as a run or a folder of runs"
            )
        return path

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
            "label": "instruction",
            "encoder": "minilm" if self.label in TEXTS else None,
            "split": None,
        }
        chosen = self.flat()
        given = [Path(str(chosen[name])).name for name, value in usual.items() if chosen[name] != value]
        # two parts of one run, such as those that a cell is chosen on and tested on, must not replace each other
        ranges = {"tasks": self.query.task_range, "episodes": self.query.episode_range}
        given += [f"{name}{bounds[0]}to{bounds[1]}" for name, bounds in ranges.items() if bounds]
        given += [name for name in (self.query.suite, self.query.run_name, self.query.campaign) if name]
        given += [_where_name(self.query.where)] if self.query.where is not None else []
        given += ["interrupted"] * self.query.interrupted
        given += [f"control-{self.control_run.resolve().name}"] if self.control_run is not None else []
        left_out = self.query.exclude_episodes
        given += [
            "without" + (printable(left_out[0]).replace("/", "-") if len(left_out) == 1 else str(len(left_out)))
        ] * bool(left_out)
        given += [f"folds{self.evaluation.folds}"] * (self.evaluation.folds is not None)
        given += [f"seed{self.evaluation.seed}"] * (self.evaluation.seed != EvaluationConfig().seed)
        return "".join(f"_{value}" for value in given)

    def flat(self) -> dict[str, object]:
        """Every option by its name on the command line, as results keep them; the store in one way, the encoder as used."""
        unrecorded = (*UNRECORDED, "data_path")
        return {name: value for name, value in _flat(self).items() if name not in unrecorded} | {
            "store": self.store_path(),
            "encoder": (self.encoder or "minilm") if self.label in TEXTS else None,
        }

    def check(self) -> None:
        """Raises AnalysisError where options cannot be used together."""
        self.evaluation.check()
        if self.encoder is not None and self.label not in TEXTS:
            raise AnalysisError(
                f"--encoder {self.encoder}: encodes texts, and --label {printable(self.label)} has an axis for each value: "
                f"leave --encoder, or predict {' or '.join(TEXTS)}"
            )

    def control(self, store: LatentStore, episodes: Sequence[Numbered]) -> ControlRun | None:
        """The partners of some episodes in the control run.

        Raises:
            AnalysisError, StoreError: as `ControlRun.open`.
        """
        from vlascope_analysis.data.control import ControlRun

        return None if self.control_run is None else ControlRun.open(self.control_run, store, episodes)

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


def refuse_pickle(output_dir: Path, name: str) -> None:
    """Raises AnalysisError where results are asked for as a pickle.

    Args:
        output_dir: as given.
        name: of the result, as part of its files' names.
    """
    if output_dir.suffix.lower() in (".pkl", ".pickle"):
        folder = output_dir.parent
        raise AnalysisError(
            f"--output-dir {output_dir}: no pickle is written, since reading one runs whatever code is in it; results are JSON "
            f"and Parquet: --output-dir {folder} writes {folder / f'results_{name}.json'}"
        )


def show(result: Result, folder: Path, summary: str, figures: Mapping[str, Figure]) -> None:
    """Writes a result, warns of what its reader should know first, and prints the summary and the files."""
    from vlascope_analysis.results import write_result

    for warning in result.warnings:
        logging.getLogger(__name__).warning("%s", printable(warning))
    files = write_result(result, folder, summary, figures)
    print(summary)
    print("\n".join(map(str, files)))


def _where_name(condition: str) -> str:
    """A condition as part of a file's name: its words as far as they are short, and a digest, since signs are left out."""
    words = "-".join(re.findall(r"\w+", condition, re.ASCII))[:40]
    return f"where-{words}-{hashlib.blake2b(condition.encode('utf-8', 'surrogateescape'), digest_size=3).hexdigest()}"


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _flat(options: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in dataclasses.fields(options):  # pyright: ignore[reportArgumentType]
        value = getattr(options, field.name)
        found |= _flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return found
