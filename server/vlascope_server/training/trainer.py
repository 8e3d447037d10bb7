"""Trains a policy: steps, evaluation, metrics and checkpoints, until all steps are done or somebody asks to stop.

1. Everything that a step computes follows from the options, the data and its number: a resumed run repeats an unbroken one.
2. SIGTERM and SIGINT let the step end, save, and return; a second SIGINT interrupts.
3. A loss that is not finite stops the run before anything of it is saved.
4. A checkpoint is whole or absent, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vlascope_base.command import say_configuration
from vlascope_base.provenance import provenance
from vlascope_base.text import readable_bytes

from vlascope_server.checkpoints import Sidecars, save_checkpoint
from vlascope_server.training.loader import Batch, Loader
from vlascope_server.training.objective import (
    Counts,
    Recipe,
    counted_dimensions,
    learning_rate,
    make_evaluation,
    make_optimiser,
    make_step,
    metrics_of,
)
from vlascope_server.training.options import TrainingError, TrainOptions
from vlascope_server.training.prepare import Prepared, prepare
from vlascope_server.training.progress import TrainingProgress
from vlascope_server.training.run_folder import CONFIGURATION, RunFolder, opened
from vlascope_server.training.train_state import TrainState, prune, restore, save, steps_in

T = TypeVar("T")

_log = logging.getLogger(__name__)

_DRAWN_RATE, _LOADED_RATE = 1e-3, 2.5e-5
_TIMED = 5, 25
"""Steps between which the speed is measured, where a run is to take a time rather than a number of steps."""
_VALIDATION_BATCHES = 8
_PACKAGES = (
    "vlascope-server", "vlascope-latents", "vlascope-datasets", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trained:
    """How a run ended.

    Attributes:
        checkpoint: the newest one; the run's folder where it stopped before the first step.
        step: steps taken in all.
        steps: steps that were to be taken.
    """

    checkpoint: Path
    step: int
    steps: int | None

    @property
    def finished(self) -> bool:
        """Nothing is left to resume."""
        return self.step == self.steps


def train(options: TrainOptions) -> Trained:
    """Trains as the options say, in a folder that holds everything about the run.

    Returns:
        The newest checkpoint, also where the run was asked to stop or its minutes are over.

    Raises:
        TrainingError: something does not fit, the disk is full, or the loss is not finite any more.
        CheckpointError: the checkpoint to begin with cannot be loaded.
        DatasetError: the dataset cannot be read.
    """
    with opened(options) as folder, TrainingProgress() as progress, _room_on_the_device(options):
        newest = folder.path / str(folder.last) if folder.last else None
        trainer = _Trainer(options, folder, prepare(options, newest), progress)
        with _asked_to_stop() as stop:
            return trainer.run(stop)


class _Trainer:
    def __init__(self, options: TrainOptions, folder: RunFolder, prepared: Prepared, progress: TrainingProgress):
        self._options, self._folder, self._prepared, self._progress = options, folder, prepared, progress
        self._facts = prepared.facts()
        folder.check_data(self._facts)
        devices = np.array(jax.devices())
        if options.batch_size % (shares := len(devices) * options.accumulate):
            raise TrainingError(
                f"batch_size: {options.batch_size} is no multiple of {shares}, the devices ({len(devices)}) times --accumulate"
                f" ({options.accumulate})"
            )
        mesh = Mesh(devices, ("data",))
        self._rows, self._everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        begun_with = folder.facts.get("learning_rate") if folder.last else None
        self._peak = options.learning_rate or begun_with or (_DRAWN_RATE if prepared.drawn else _LOADED_RATE)
        self._step, self._steps, self._saved = folder.last, options.steps, folder.last
        self._state = self._first_state()
        self._tokenizer: Path | None = None
        self._frozen = self._put({n: v for n, v in prepared.params.items() if n not in prepared.trained})
        counted = counted_dimensions(prepared.params, prepared.carrying)
        self._prepared = dataclasses.replace(prepared, params={})  # the device has no room for them twice
        remat = jax.default_backend() != "cpu" if options.remat is None else options.remat
        self._advance = make_step(prepared.trimmed, counted, Recipe.of(options), remat=remat)
        self._evaluate = make_evaluation(
            prepared.trimmed, counted, options.flow_samples, grounding=options.grounding > 0
        )

    def run(self, stop: threading.Event) -> Trained:
        options, prepared, begun = self._options, self._prepared, time.monotonic()
        if self._steps is not None and self._step >= self._steps:
            self._steps = self._step  # fewer may have been asked for than were taken
            self._describe()  # who was killed just after the last save could not
            return Trained(self._folder.path / str(self._saved), self._step, self._steps)
        self._check_room()
        self._describe()
        say_configuration(self._folder.path / CONFIGURATION)
        self._tokenizer = self._folder.keep(prepared.tokenizer)
        episodes = [*prepared.episodes, *prepared.held_out]
        with self._progress.images(len(episodes)) as done:
            for count, _ in enumerate(prepared.images.fill(episodes), 1):
                done(count)
                if stop.is_set():  # what is resized stays
                    newest = self._folder.path / str(self._saved) if self._saved else self._folder.path
                    return Trained(newest, self._step, self._steps)
        pending: tuple[int, float, dict[str, jax.Array]] | None = None
        window, clock, saved_at = _Window(options), _Clock(self._step), time.monotonic()
        loader = Loader(prepared.training, self._step, options)
        self._progress.begin(self._step, self._steps)
        with loader:
            for batch in loader:
                rate = learning_rate(options, self._peak, self._step, self._steps)
                self._state, metrics = self._advance(
                    self._state, self._frozen, self._split(batch), np.int32(self._step), np.float32(rate)
                )
                self._step += 1
                # one step behind, so that the device never waits for the host to look
                if pending:
                    self._look(pending, window)
                pending = self._step, rate, metrics
                self._steps = self._steps or clock.steps(self._step, options.minutes, begun)
                over = options.minutes is not None and options.steps is not None
                timed_out = over and time.monotonic() - begun > 60 * (options.minutes or 0)
                last = self._step == self._steps or stop.is_set() or timed_out
                old = time.monotonic() - saved_at > 60 * options.save_minutes
                due = self._step % options.save_every == 0 or old
                validate = self._step % options.validate_every == 0 or self._step == self._steps
                if last or due or validate:
                    self._look(pending, window)
                    pending = None
                if validate:
                    self._validate()
                if last or due:
                    self._save()
                    saved_at = time.monotonic()
                if last:
                    break
        return Trained(self._folder.path / str(self._saved), self._step, self._steps)

    def _first_state(self) -> TrainState:
        trained = {name: self._prepared.params[name] for name in sorted(self._prepared.trained)}
        optimiser = make_optimiser(Recipe.of(self._options)).init(trained)
        state = TrainState(trained, trained, optimiser)
        if self._step:
            state, steps = restore(self._folder.path, self._step, state)
            self._steps = self._options.steps or steps
        # copies: a state is given up with every step, and the parameters that were loaded are not
        state = jax.tree.map(np.array, state)
        return self._put(state)

    def _look(self, pending: tuple[int, float, dict[str, jax.Array]], window: _Window) -> None:
        """Waits for a step's metrics, and stops where they are not finite."""
        step, rate, metrics = pending
        values = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise self._diverged(step, f"loss is {values['loss']}, norm of the gradient {values['grad_norm']}")
        window.add(step, values, rate)
        self._progress.update(step, self._steps, values)
        if step % self._options.log_every == 0:
            row = window.row()
            self._folder.log(row)
            self._progress.line(row, self._steps)

    def _diverged(self, step: int, what: str) -> TrainingError:
        kept = f"{self._folder.path / str(self._saved)} is whole" if self._saved else "nothing was saved yet"
        return TrainingError(
            f"step {step}: {what}; {kept}: train anew with a lower --learning-rate than {self._peak:g} or a longer --warmup,"
            " or look for extreme values in the dataset"
        )

    def _validate(self) -> None:
        batches, size = self._prepared.validation, self._options.batch_size
        if batches is None:
            return
        count = min(len(batches.rows), _VALIDATION_BATCHES * size)
        chosen = batches.rows[np.linspace(0, len(batches.rows) - 1, count).astype(int)]
        params, sums = {**self._frozen, **self._state.average}, []
        for number, start in enumerate(range(0, count, size)):
            batch = self._split(batches.make(chosen[start : start + size], size, None, 0.0))
            sums.append(jax.device_get(self._evaluate(params, batch, np.int32(number))))
        errors, counts = jax.tree.map(lambda *each: np.sum(each, axis=0), *sums)
        counts = Counts(*(np.maximum(number, 1.0) for number in counts))
        found = metrics_of(errors, counts, self._options.grounding)
        row = {"step": self._step, **{f"validation_{name}": float(value) for name, value in found.items()}}
        self._folder.log(row)
        self._progress.line(row, self._steps)
        self._folder.draw()

    def _save(self) -> None:
        """Saves unless this step is saved already."""
        if self._saved == self._step:
            return
        prepared = self._prepared
        state = jax.device_get(self._state)
        for name, value in state.average.items():
            if not np.isfinite(value).all():
                raise self._diverged(self._step, f"weights of {name} are not finite")
        params = {**jax.device_get(self._frozen), **state.average}

        sidecars = Sidecars(
            norm_stats=prepared.norm_stats,
            asset_id=prepared.asset_id,
            record=dataclasses.replace(prepared.record, step=self._step),
            tokenizer=self._tokenizer,
        )

        def write_weights(folder: Path) -> None:
            save_checkpoint(folder, params, prepared.config, sidecars)

        save(self._folder.path, self._step, self._steps, state, write_weights)
        self._saved = self._step
        prune(self._folder.path, self._options.keep)
        self._describe()
        self._folder.draw()
        _log.info("saved %s", self._folder.path / str(self._step))

    def _check_room(self) -> None:
        """Says what a checkpoint takes, and refuses to begin where those to come do not fit."""
        facts, keep = self._facts, self._options.keep
        # float32: averages and frozen; weights and Adam's two moments
        size = 4 * (facts["parameters"] + 3 * facts["trained_parameters"])
        free = shutil.disk_usage(self._folder.path).free
        kept = f"{keep} are kept" if keep else "all are kept"
        _log.info(
            "a checkpoint takes up to %s, %s; %s are free", readable_bytes(size, 3), kept, readable_bytes(free, 3)
        )
        # one is removed only after the next is whole
        more = max(1, (keep or 1) + 1 - len(steps_in(self._folder.path)))
        if more * size > free:
            raise TrainingError(
                f"{self._folder.path}: {more} more of {readable_bytes(size, 3)} each come, the disk has"
                f" {readable_bytes(free, 3)} free: make room, --keep fewer checkpoints, or choose another --output"
            )

    def _describe(self) -> None:
        facts = self._facts | {"learning_rate": self._peak, "steps": self._steps, "taken": self._step}
        devices = jax.devices()
        made = provenance(*_PACKAGES) | {"device": devices[0].device_kind, "devices": [str(each) for each in devices]}
        self._folder.describe(self._options, facts | {"provenance": made})

    def _split(self, batch: Batch) -> Batch:
        """Each device gets its share of the batch."""
        return jax.device_put(batch, self._rows)

    def _put(self, tree: T) -> T:
        """Every device gets everything."""
        return jax.device_put(tree, self._everywhere)


class _Window:
    """Means over the steps since the last line of metrics."""

    def __init__(self, options: TrainOptions):
        self._batch = options.batch_size
        self._begun, self._values = time.monotonic(), list[dict[str, float]]()
        self._step, self._rate = 0, 0.0

    def add(self, step: int, values: dict[str, float], rate: float) -> None:
        self._values.append(values)
        self._step, self._rate = step, rate

    def row(self) -> dict[str, float]:
        """A line of metrics; begins anew."""
        now = time.monotonic()
        row = {
            "step": self._step,
            **{name: float(np.mean([values[name] for values in self._values])) for name in self._values[0]},
            "learning_rate": self._rate,
            "samples_per_second": round(self._batch * len(self._values) / max(1e-9, now - self._begun), 2),
            "time": round(time.time(), 1),
        }
        self._begun, self._values = now, []
        return row


class _Clock:
    """How many steps fit into the minutes, from the speed of the first ones after compiling."""

    def __init__(self, first: int):
        self._first, self._at = first, 0.0

    def steps(self, step: int, minutes: float | None, begun: float) -> int | None:
        """The number of all steps once it is known; it never changes after that."""
        if minutes is None:
            return None
        if step - self._first == _TIMED[0]:
            self._at = time.monotonic()
        if step - self._first < _TIMED[1]:
            return None
        now = time.monotonic()
        pace = (now - self._at) / (_TIMED[1] - _TIMED[0])
        return step + max(1, int((60 * minutes - (now - begun)) / pace))


@contextlib.contextmanager
def _room_on_the_device(options: TrainOptions) -> Iterator[None]:
    """Turns a device's lack of memory into one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"the device's memory is too small for this: {str(error).splitlines()[0][:200]}; try a smaller --batch-size than"
            f" {options.batch_size}, more parts with --accumulate, --remat True, or adapters with --lora"
        ) from error


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT; outside of the main thread, by nobody."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        _log.warning("stopping after this step; a checkpoint is saved first")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
