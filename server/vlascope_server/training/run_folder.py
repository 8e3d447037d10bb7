"""A run's folder: what was asked for (`train.json`), what happened (`metrics.jsonl`, `loss.png`), its checkpoints."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
from vlascope_base.files import append_line, make_folders, replace_file, replacing
from vlascope_base.options import record_of

from vlascope_server.checkpoints.files import TOKENIZER_FILE
from vlascope_server.training.options import MAY_CHANGE, TrainingError, TrainOptions
from vlascope_server.training.progress import Metrics, draw_loss
from vlascope_server.training.train_state import steps_in, sweep

CONFIGURATION, METRICS, CURVE = "train.json", "metrics.jsonl", "loss.png"


@contextlib.contextmanager
def opened(options: TrainOptions) -> Iterator[RunFolder]:
    """The folder of a new run, or of one to go on with; held against other processes.

    Raises:
        TrainingError: it holds something and was not to be resumed, another run, or one with other options.
    """
    run = options.output
    if run.exists() and not run.is_dir():
        raise TrainingError(f"{run}: exists and is no folder; choose another --output")
    begun = (run / CONFIGURATION).is_file()
    if run.is_dir() and any(p.name != ".lock" for p in run.iterdir()):
        if not options.resume:
            raise TrainingError(f"{run}: exists and is not empty; go on with --resume, or choose another --output")
        if not begun:
            raise TrainingError(f"{run}: holds no run ({CONFIGURATION} is missing); choose another --output")
    make_folders(run)
    try:
        with filelock.FileLock(run / ".lock", timeout=0):
            sweep(run)
            if begun and steps_in(run):
                _check_same(run, options)
            elif begun:  # nothing came of it: it begins anew, with what is asked for now
                for name in (CONFIGURATION, METRICS, TOKENIZER_FILE):
                    (run / name).unlink(missing_ok=True)
            yield RunFolder(run)
    except filelock.Timeout:
        raise TrainingError(f"{run}: another process trains in it; wait for it to end") from None


class RunFolder:
    """The files of one run.

    Attributes:
        path: the folder.
        last: step of the newest whole checkpoint; 0 where there is none.
        rows: lines of `metrics.jsonl` up to that step.
        facts: what `train.json` said when the folder was opened.
    """

    def __init__(self, path: Path):
        """Cuts the metrics back to the checkpoint that the run goes on from."""
        self.path = path
        self.last = max(steps_in(path), default=0)
        self.rows: list[Metrics] = []
        self.facts = _described(path) if (path / CONFIGURATION).is_file() else {}
        file = path / METRICS
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            with contextlib.suppress(ValueError):  # a killed process may have left half a line
                row = json.loads(line)
                if row["step"] <= self.last:
                    self.rows.append(row)
        if file.is_file():
            replace_file(file, "".join(json.dumps(row) + "\n" for row in self.rows))

    def describe(self, options: TrainOptions, facts: Mapping[str, object]) -> None:
        """Writes `train.json`: the options, and what follows from them and from the data."""
        content = {"options": record_of(options), **facts}
        replace_file(self.path / CONFIGURATION, json.dumps(content, default=str, indent=2) + "\n")

    def check_data(self, facts: Mapping[str, object]) -> None:
        """Whether a run that goes on finds the episodes that it began with.

        Raises:
            TrainingError: episodes came or went since: others would be held out.
        """
        for field in ("episodes", "held_out_episodes", "frames"):
            kept, found = self.facts.get(field), facts[field]
            if kept is not None and kept != found:
                counts = (len(x) if isinstance(x, list) else x for x in (kept, found))
                raise TrainingError(
                    "{}: {}: the run has {}, the dataset now gives {}: it was changed since; name the episodes that were there"
                    " with --episodes in a new --output, or begin there anew".format(self.path, field, *counts)
                )

    def keep(self, file: Path | None) -> Path | None:
        """A copy of a file in the run's folder: the checkpoint that it comes from may be removed while the run goes on."""
        if file is None:
            return None
        copy = self.path / TOKENIZER_FILE
        if not copy.exists():
            with replacing(copy) as partial:
                shutil.copyfile(file, partial)
        return copy

    def log(self, row: Metrics) -> None:
        """Adds a line to the metrics."""
        self.rows.append(row)
        append_line(self.path / METRICS, row)

    def draw(self) -> None:
        """Draws the loss curve anew."""
        draw_loss(self.rows, self.path / CURVE, self.path.resolve().name)


def _check_same(run: Path, options: TrainOptions) -> None:
    kept = _described(run)["options"]
    given = json.loads(json.dumps(record_of(options), default=str))
    for field, value in given.items():
        if field not in MAY_CHANGE and field != "output" and kept.get(field, value) != value:
            raise TrainingError(
                f"{run}: {field}: the run has {kept[field]!r}, now {value!r} was given; a resumed run keeps what it began"
                " with: give that, or choose another --output"
            )


def _described(run: Path) -> dict[str, Any]:
    path = run / CONFIGURATION
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["options"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrainingError(
            f"{path}: damaged: expected a map with the run's options; its checkpoints are whole: begin another --output"
            f" with --init {run / str(max(steps_in(run), default=0))}"
        ) from None
    return facts
