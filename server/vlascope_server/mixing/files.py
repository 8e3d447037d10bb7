"""Writes a mix: checkpoint, statistics, report, figure and JSON, all of it or nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vlascope_base.files import replace_file, replace_json, replacing
from vlascope_base.options import record_of
from vlascope_base.provenance import now, provenance

from vlascope_server.checkpoints import Sidecars
from vlascope_server.checkpoints.files import NORM_STATS_FILE
from vlascope_server.checkpoints.save import write_checkpoint
from vlascope_server.checkpoints.unfinished import unfinished
from vlascope_server.json_file import without_nan
from vlascope_server.mixing.figures import curve
from vlascope_server.mixing.inputs import kind_of, record_of_mix
from vlascope_server.mixing.judgement import Interval, Judged, best_of, compared, interval
from vlascope_server.mixing.methods import Found
from vlascope_server.mixing.mix import Mixed, asset_id_of
from vlascope_server.mixing.output import FIGURE, JSON, REPORT, STEP
from vlascope_server.mixing.report import conclusion, report
from vlascope_server.mixing.validation import ValidationData
from vlascope_server.robots.norm_stats import save_norm_stats

_PACKAGES = ("vlascope-server", "jax", "jaxlib", "ml-dtypes", "numpy", "optax", "orbax-checkpoint", "safetensors")


def write_mix(mixed: Mixed, output: Path) -> Path:
    """Writes everything, whole or not at all; an earlier mix there is replaced at the end.

    Args:
        mixed: the mix.
        output: gets `0/` (Orbax) or `model.safetensors`, the statistics beside it and in `assets/`, and the report.

    Returns:
        The checkpoint: what can be served.

    Raises:
        CheckpointError: the parameters have no form in the format, or the output exists by now.
    """
    kind = kind_of(mixed.inputs, mixed.options.to)
    statistics = mixed.statistics
    sidecars = Sidecars(
        norm_stats=statistics.stats,
        asset_id=asset_id_of(mixed.inputs),
        record=record_of_mix(mixed.inputs, statistics.count),
        tokenizer=mixed.inputs.sources[0].files.tokenizer,
    )
    with unfinished(output, replace=mixed.options.overwrite) as partial:
        folder = partial
        if kind == "orbax":
            folder = partial / STEP
            folder.mkdir()
        write_checkpoint(folder, mixed.params, mixed.inputs.config, sidecars, kind=kind)
        save_norm_stats(partial / NORM_STATS_FILE, statistics.stats)
        replace_file(partial / REPORT, report(mixed))
        replace_json(partial / JSON, as_json(mixed))
        if figure := curve(mixed):
            with replacing(partial / FIGURE) as file:
                figure.savefig(file, format="png")
    return output / STEP if kind == "orbax" else output


def as_json(mixed: Mixed) -> dict[str, Any]:
    """Everything that is known of a mix, with versions and revision; what is not a number is null."""
    best = best_of(mixed.judged_inputs) if mixed.judged_inputs else None
    content = {
        "schema": 1,
        "method": mixed.method,
        "conclusion": conclusion(mixed),
        "inputs": [
            {"location": location, "path": source.origin, "format": source.kind, "step": source.record.step}
            for location, source in zip(mixed.inputs.locations, mixed.inputs.sources, strict=True)
        ],
        "parameters": {"all": len(mixed.params), "mixed": len(mixed.params) - mixed.passed_on},
        "adapters": mixed.options.lora if mixed.inputs.had_adapters else None,
        "tasks": None if mixed.tasks is None else dataclasses.asdict(mixed.tasks),
        "methods": {found.method: _found(found) for found in mixed.found},
        "losses": {
            "checkpoints": [_judged(row, best) for row in mixed.judged_inputs],
            "mixes": [_judged(row, best) for row in mixed.judged_mixes],
        },
        "norm_stats": {"how": mixed.statistics.how, "count": mixed.statistics.count},
        "data": None if mixed.data is None else _data(mixed.data),
        "options": {name: _plain(value) for name, value in record_of(mixed.options).items()},
        "time": now(),
        **provenance(*_PACKAGES),
    }
    return without_nan(content)


def _found(found: Found) -> dict[str, Any]:
    return {
        "groups": list(found.groups.names),
        "weights": found.weights.tolist(),
        "steps": [{"loss": step.loss, "weights": step.weights.tolist()} for step in found.steps],
        "tried": [{"checkpoints": list(mix), "loss": loss} for mix, loss in found.tried],
    }


def _judged(row: Judged, best: Judged | None) -> dict[str, Any]:
    return {
        "name": row.name,
        "selection": {"mean": row.selection.mean, "episodes": _by_episode(row.selection)},
        "validation": {**_interval(interval(row.validation.values)), "episodes": _by_episode(row.validation)},
        "less_best_checkpoint": None if best is None or row is best else _interval(compared(row, best)),
    }


def _by_episode(losses: Any) -> dict[str, float]:
    return {str(number): float(value) for number, value in zip(losses.episodes, losses.values, strict=True)}


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _data(data: ValidationData) -> dict[str, Any]:
    facts = data.facts
    return {
        "path": str(data.path),
        "dataset": facts.dataset,
        "episodes": {part: list(numbers) for part, numbers in facts.episodes.items()},
        "frames": len(data),
        "options": facts.options,
        "provenance": facts.provenance,
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
