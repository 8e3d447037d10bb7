"""Mixes checkpoints: opens them, finds weights, judges the mixes, and makes the parameters of the one that is written.

Without validation data nothing is compiled and no more than one parameter of all checkpoints is held beside the mix. With it,
all checkpoints lie on the device: what they share once, what differs once for each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from vlascope_base.progress import Progress, silent

from vlascope_server.checkpoints import Source, opened
from vlascope_server.checkpoints.drawn import likes_of
from vlascope_server.checkpoints.files import BESIDE
from vlascope_server.checkpoints.load import load_statistics
from vlascope_server.checkpoints.record import asked_for
from vlascope_server.checkpoints.weights import dtype_of
from vlascope_server.mixing.device import OnDevice, load
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.inputs import Inputs, check_finite, gather, kind_of
from vlascope_server.mixing.judgement import Judged, best_of
from vlascope_server.mixing.losses import Losses
from vlascope_server.mixing.methods import Found, average, find_weights, given
from vlascope_server.mixing.norm_stats import pool_norm_stats
from vlascope_server.mixing.options import METHODS, MixOptions
from vlascope_server.mixing.tasks import Tasks, magnitude_above
from vlascope_server.mixing.validation import ValidationData
from vlascope_server.mixing.weighting import Groups, weighted_sum
from vlascope_server.model import Params
from vlascope_server.policies.pi0.assembly import find_dtype
from vlascope_server.robots.norm_stats import QUANTITIES, NormStats, NormStatsError, load_norm_stats


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """The normalisation statistics of a mix.

    Attributes:
        stats: quantity -> statistics.
        count: states behind them; None where nobody says.
        how: a sentence for the report.
    """

    stats: Mapping[str, NormStats]
    count: int | None
    how: str


@dataclasses.dataclass(frozen=True, eq=False)
class Mixed:
    """A mix, with everything that is said of it.

    Attributes:
        options: it was made with.
        inputs: the checkpoints; with a base, the base is the first.
        method: what made it: a method's name, `weights`, or `task arithmetic`, `ties`, `dare`.
        params: flat name -> array, in the dtypes that are written.
        passed_on: how many parameters had the same values in all checkpoints, and were not touched.
        statistics: for normalising.
        found: what every method that was tried found; with a base, nothing.
        tasks: with a base, how the differences were combined.
        data: the validation data.
        judged_inputs, judged_mixes: losses, in the order of inputs and of methods; empty without validation data.
    """

    options: MixOptions
    inputs: Inputs
    method: str
    params: dict[str, np.ndarray]
    passed_on: int
    statistics: Statistics
    found: tuple[Found, ...] = ()
    tasks: Tasks | None = None
    data: ValidationData | None = None
    judged_inputs: tuple[Judged, ...] = ()
    judged_mixes: tuple[Judged, ...] = ()

    @property
    def chosen(self) -> Found | None:
        """What the method that is written found."""
        return next((found for found in self.found if found.method == self.method), None)

    @property
    def judged(self) -> Judged | None:
        """The losses of what is written."""
        return next((judged for judged in self.judged_mixes if judged.name == self.method), None)


def mix(options: MixOptions, progress: Progress = silent) -> Mixed:
    """Mixes as the options say, in memory.

    Raises:
        MixingError: the checkpoints or the data do not fit each other or the options.
        CheckpointError: a checkpoint cannot be read.
    """
    locations = (*((options.base,) if options.base else ()), *options.checkpoints)
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(opened(location, options.named_preset, like)).asked(asked_for(options))
            for location, like in zip(locations, likes_of(locations, options.like), strict=True)
        ]
        inputs = gather(locations, sources, delta=options.lora == "delta")
        kind_of(inputs, options.to)
        statistics = _statistics(inputs, options)
        data = None
        if options.data_path:
            data = ValidationData.open(options.data_path)
            data.check_fits(inputs.config, locations[0])
            _check_presented(data, inputs)
        tasks = _tasks(inputs, options, progress) if options.base else None
        if data is None:
            found = () if tasks else (_without_data(inputs, options),)
            method = found[0].method if found else _named(options)
            params, passed_on = _parameters(inputs, found[0] if found else None, tasks, progress)
            return Mixed(options, inputs, method, params, passed_on, statistics, found, tasks)
        policies = load(inputs, find_dtype(options.dtype), progress)
        if not policies.differing:
            raise _nothing_differs(inputs)
        losses = Losses(
            data, inputs.config, policies,
            draws=options.flow_samples, batch_size=options.batch_size, seed=options.seed,
        )  # fmt: skip
        singles = tuple(
            _judged(location, None, losses, policies.checkpoint(k), progress) for k, location in enumerate(locations)
        )
        if tasks:
            params, passed_on = _parameters(inputs, None, tasks, progress)
            policy = policies.policy({name: params[name] for name in policies.differing})
            mixes = (_judged(_named(options), None, losses, policy, progress),)
            return Mixed(
                options, inputs, _named(options), params, passed_on, statistics, (), tasks, data, singles, mixes
            )
        found = _with_data(inputs, options, policies, losses, singles, progress)
        mixes = tuple(
            _judged(each.method, each.weights, losses, policies.mixed(each.groups, each.weights), progress)
            for each in found
        )
        method = best_of(mixes).name
        chosen = next(each for each in found if each.method == method)
        del policies
        params, passed_on = _parameters(inputs, chosen, None, progress)
        return Mixed(options, inputs, method, params, passed_on, statistics, found, None, data, singles, mixes)


def _named(options: MixOptions) -> str:
    return {"sum": "task arithmetic", "ties": "ties", "dare": "dare"}[options.combine]


def _without_data(inputs: Inputs, options: MixOptions) -> Found:
    """Weights that follow from the options alone."""
    groups = Groups.of(inputs.shapes, options.weights_by)
    count = len(inputs.sources)
    if options.weights is None:
        return Found("average", np.tile(average(count), (len(groups.names), 1)), groups)
    return Found("weights", given(options.weights, count), groups)


def _with_data(
    inputs: Inputs,
    options: MixOptions,
    policies: OnDevice,
    losses: Losses,
    singles: tuple[Judged, ...],
    progress: Progress,
) -> tuple[Found, ...]:
    """Weights of the method that was asked for, or of all."""
    if options.weights is not None:
        return (_without_data(inputs, options),)
    asked = options.optimize_method
    methods = METHODS if asked is None or asked == "all" else (asked,)
    alone = [single.selection for single in singles]
    groups = Groups.of(policies.differing, options.weights_by)
    return tuple(find_weights(method, options, policies, groups, losses, alone, progress) for method in methods)


def _judged(name: str, weights: np.ndarray | None, losses: Losses, policy: Params, progress: Progress) -> Judged:
    """Losses of a policy on both parts."""
    selection = losses.of(policy, "selection", progress, f"{name}, selection episodes")
    validation = losses.of(policy, "validation", progress, f"{name}, validation episodes")
    if not np.isfinite([selection.mean, validation.mean]).all():
        raise MixingError(
            f"{name}: its loss is not finite on {losses.path}; leave it out, or look at it with vlascope-server diff"
        )
    return Judged(name, weights, selection, validation)


def _tasks(inputs: Inputs, options: MixOptions, progress: Progress) -> Tasks:
    """How task vectors are combined; for `ties` the magnitudes are looked through first."""
    count = len(options.checkpoints)
    scales = options.scale * count if len(options.scale) == 1 and options.combine != "ties" else options.scale
    thresholds: tuple[float, ...] = ()
    if options.combine == "ties":
        base = inputs.weights[0]

        def vectors(number: int) -> Iterator[np.ndarray]:
            for done, name in enumerate(inputs.names):
                progress(f"trimming {options.checkpoints[number]}", done, len(inputs.names))
                yield inputs.weights[number + 1].read(name, "float32") - base.read(name, "float32")

        thresholds = tuple(magnitude_above(lambda k=k: vectors(k), options.kept) for k in range(count))
    return Tasks(options.combine, scales, options.kept, thresholds, options.seed)


def _parameters(
    inputs: Inputs, found: Found | None, tasks: Tasks | None, progress: Progress
) -> tuple[dict[str, np.ndarray], int]:
    """The mix's parameters, and how many had the same values in all checkpoints."""
    params: dict[str, np.ndarray] = {}
    names = inputs.names
    passed_on = 0
    for done, name in enumerate(names):
        progress("mixing parameters", done, len(names))
        arrays = inputs.read(name)
        if len(arrays) == 1:
            params[name] = arrays[0]
            passed_on += 1
        elif tasks:
            with np.errstate(over="ignore"):  # what overflows is found below
                params[name] = tasks.applied(name, arrays[0], arrays[1:])
        elif found:
            weights = found.groups.weights_of(name, found.weights)
            params[name] = weighted_sum(arrays, weights, dtype_of(inputs.dtype(name)))
        check_finite("the mix", name, params[name])
    progress("mixing parameters", len(names), len(names))
    if passed_on == len(names):
        raise _nothing_differs(inputs)
    return params, passed_on


def _nothing_differs(inputs: Inputs) -> MixingError:
    return MixingError(f"checkpoints: {' and '.join(inputs.locations)} hold the same values; expected some that differ")


def _check_presented(data: ValidationData, inputs: Inputs) -> None:
    """Raises `MixingError` where the data present observations and actions otherwise than the checkpoints say they do."""
    for field in ("robot", "normalisation", "delta_actions", "state_in_prompt"):
        made, said = getattr(data.facts, field), getattr(inputs.record, field)
        if said is not None and made != said:
            raise MixingError(
                f"{data.path}: {field}: it was made with {made}, and {inputs.locations[0]} has {said}; make it anew with"
                f" vlascope-server dump-data --checkpoint {inputs.locations[0]}"
            )
    tokenizer = inputs.sources[0].files.tokenizer
    if tokenizer and hashlib.sha256(tokenizer.read_bytes()).hexdigest() != data.facts.tokenizer:
        raise MixingError(
            f"{data.path}: its prompts are of another tokenizer than {tokenizer}; make it anew with vlascope-server dump-data"
            f" --checkpoint {inputs.locations[0]}"
        )


def _statistics(inputs: Inputs, options: MixOptions) -> Statistics:
    """Those of a file, or pooled from the checkpoints. A base's are not looked at."""
    if options.norm_stats:
        return Statistics(
            _stats_in(options.norm_stats, inputs), None, f"The statistics were read from {options.norm_stats}."
        )
    first = 1 if options.base else 0
    sources, locations = inputs.sources[first:], inputs.locations[first:]
    loaded = [_stats_of(source, location, inputs) for source, location in zip(sources, locations, strict=True)]
    counts = [source.record.norm_stats_count for source in sources]
    normalisation = inputs.record.normalisation
    stats, count = pool_norm_stats(
        loaded, counts, names=locations, quantiles_used=normalisation is None or "quantile" in normalisation
    )
    if stats == dict(loaded[0]):
        return Statistics(stats, count, "All checkpoints have the same normalisation statistics.")
    lost = any(loaded[0][name].q01 is not None and entry.q01 is None for name, entry in stats.items())
    how = f"The normalisation statistics were pooled by the states behind them, {', '.join(map(str, counts))}."
    return Statistics(
        stats, count, how + (" Quantiles, which this policy does not use, can't be, and were left out." if lost else "")
    )


def _stats_in(path: Path, inputs: Inputs) -> Mapping[str, NormStats]:
    """Statistics of a file, which must be of as many numbers as those that the checkpoints have."""
    try:
        stats = load_norm_stats(path)
    except NormStatsError as error:
        raise MixingError(f"norm_stats: {error}") from None
    known = next((s for source in inputs.sources if (s := load_statistics(source, inputs.config.action_dim)[0])), {})
    for quantity in QUANTITIES:
        if quantity not in stats:
            raise MixingError(
                f"norm_stats: {path}: expected statistics of {' and '.join(QUANTITIES)}, found {', '.join(stats)}"
            )
        expected = known[quantity].width if quantity in known else None
        if expected is not None and stats[quantity].width != expected:
            raise MixingError(
                f"norm_stats: {path}: {quantity}: expected {expected} numbers as in the checkpoints, found"
                f" {stats[quantity].width}"
            )
        if stats[quantity].width > inputs.config.action_dim:
            raise MixingError(
                f"norm_stats: {path}: {quantity}: expected at most {inputs.config.action_dim} numbers, the model's width"
            )
    return stats


def _stats_of(source: Source, location: str, inputs: Inputs) -> Mapping[str, NormStats]:
    stats, _ = load_statistics(source, inputs.config.action_dim)
    if stats is None:
        several = f"has the statistics of {', '.join(source.asset_ids)}: choose with --asset-id, or" if source.asset_ids else (
            "has no statistics to normalise with:"
        )  # fmt: skip
        raise MixingError(f"{location}: {several} give the mix's with --norm-stats FILE")
    return stats


def asset_id_of(inputs: Inputs) -> str:
    """The name of the mix's statistics: that of the first checkpoint, where it has a folder for them, else the robot's."""
    known = inputs.sources[0].chosen_asset_id()
    return known if known and known != BESIDE else inputs.record.robot or "mixed"
