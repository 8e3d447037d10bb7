"""Writes a difference into a folder: text, JSON, Parquet and PNG, each file whole or not at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from vlascope_base.files import make_folders, replace_file, replace_json, replacing
from vlascope_base.provenance import now, provenance

from vlascope_server.checkpoints.difference import figures
from vlascope_server.checkpoints.difference.report import insights, report
from vlascope_server.checkpoints.difference.result import Difference, ParameterDifference
from vlascope_server.checkpoints.difference.spectral import Spectrum
from vlascope_server.checkpoints.difference.sums import Sums, total
from vlascope_server.json_file import without_nan

REPORT, TABLE, JSON = "model_difference_report.txt", "differences.parquet", "differences.json"
FIGURES = {
    "weight_differences_overview.png": figures.overview,
    "group_analysis.png": figures.groups,
    "layer_component_heatmap.png": figures.heat_map,
}
_PACKAGES = ("vlascope-server", "ml-dtypes", "numpy", "safetensors", "tensorstore")
_COUNTS = ("count", "changed", "nan_a", "nan_b", "inf_a", "inf_b")


def write_difference(difference: Difference, folder: Path, options: Mapping[str, object]) -> list[Path]:
    """Writes all files and returns their paths; those of an earlier comparison are replaced.

    Args:
        difference: what was found.
        folder: is made where it is missing.
        options: of the command, which are kept in the JSON.
    """
    make_folders(folder)
    replace_file(folder / REPORT, report(difference))
    with replacing(folder / TABLE) as partial:
        pq.write_table(table(difference), partial)
    replace_json(folder / JSON, as_json(difference, options))
    for name, draw in FIGURES.items():
        _save(draw(difference), folder / name)
    return [folder / name for name in (REPORT, TABLE, JSON, *FIGURES)]


def table(difference: Difference) -> pa.Table:
    """A row for each parameter (`layer` is null), and one for each layer of those that have layers."""
    return pa.Table.from_pylist([row for p in difference.parameters for row in _rows(p)], schema=_schema())


def as_json(difference: Difference, options: Mapping[str, object]) -> dict[str, Any]:
    """Everything, with `versions` and `git_revision`; what is not a number is null."""
    content = {
        "schema": 1,
        "a": dataclasses.asdict(difference.a),
        "b": dataclasses.asdict(difference.b),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "overall": _numbers(difference.sums),
        "insights": list(insights(difference)),
        "groups": {name: _gathered(members) for name, members in difference.by_group().items()},
        "components": {name: _gathered(members) for name, members in difference.by_component().items()},
        "layers": {
            f"{component}: {kind}": [_numbers(sums) for sums in layers]
            for (component, kind), layers in difference.by_layer().items()
        },
        "parameters": [row for p in difference.parameters for row in _rows(p)],
        "only_in_a": difference.only_a,
        "only_in_b": difference.only_b,
        "unlike_shapes": difference.unlike,
        "bytes_read": difference.bytes_read,
        "seconds": round(difference.seconds, 3),
        "time": now(),
        **provenance(*_PACKAGES),
    }
    return without_nan(content)


def _rows(p: ParameterDifference) -> Iterator[dict[str, Any]]:
    same = {"parameter": p.name, "group": p.group, "component": p.component, "kind": p.kind}
    stored = {"dtype_a": p.dtype_a, "dtype_b": p.dtype_b}
    yield {**same, "layer": None, "shape": list(p.shape), **stored, **_numbers(p.sums), **_spectrum(p.spectrum)}
    for layer, (sums, spectrum) in enumerate(zip(p.layers, p.spectra, strict=False)):
        shape = list(p.shape[1:])
        yield {**same, "layer": layer, "shape": shape, **stored, **_numbers(sums), **_spectrum(spectrum)}


def _gathered(members: list[ParameterDifference]) -> dict[str, Any]:
    """Of a group: means over its parameters as the reference has them, and the metrics of all as one vector."""
    sums = [p.sums for p in members]
    rows = [s.metrics() for s in sums]
    means = {}
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        means[name] = math.fsum(values) / len(values) if values else math.nan
    return {
        "parameters": len(members),
        "mean": means,
        "max_l2_norm": max(s.l2 for s in sums),
        "as_one_vector": _numbers(total(sums)),
    }


def _numbers(sums: Sums) -> dict[str, Any]:
    return {**{name: getattr(sums, name) for name in _COUNTS}, **sums.metrics()}


def _spectrum(spectrum: Spectrum | None) -> dict[str, float | None]:
    return {
        "spectral_norm": spectrum.norm if spectrum else None,
        "effective_rank": spectrum.rank if spectrum else None,
    }


def _schema() -> pa.Schema:
    texts = [(name, pa.string()) for name in ("parameter", "group", "component", "kind")]
    shape = [("layer", pa.int32()), ("shape", pa.list_(pa.int64())), ("dtype_a", pa.string()), ("dtype_b", pa.string())]
    counts = [(name, pa.int64()) for name in _COUNTS]
    metrics = [(name, pa.float64()) for name in (*Sums().metrics(), "spectral_norm", "effective_rank")]
    return pa.schema([*texts, *shape, *counts, *metrics])


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
