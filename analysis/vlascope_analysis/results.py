"""What an analysis found, and its files: one form, one writer and one reader for all of them.

A result named `vlm_layer5_step10` lies in `results_vlm_layer5_step10.json`, `summary_….txt`, a Parquet file for each long table
and a PNG for each figure, all named `<what>_<name>`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from vlascope_base.files import make_folders, replace_file, replacing
from vlascope_base.provenance import provenance

from vlascope_analysis.errors import AnalysisError

_PACKAGES = (
    "vlascope-analysis", "vlascope-base", "vlascope-latents", "jax", "matplotlib", "numpy", "optax", "pandas", "scipy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """What an analysis found.

    Attributes:
        analysis: the analysis, as its subcommand is named.
        tables: by name; docs/probing.md lists their columns.
        long: those of the tables that have a file of their own, since they are long.
        warnings: what the reader should know before believing the numbers.
        name: of the result, as part of its files' names; empty until it is written.
        about: what was analysed, by name: expert, layer, …
        provenance: the configuration and the data; once written, versions and git revision too.
    """

    analysis: str
    tables: Mapping[str, pd.DataFrame]
    long: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    name: str = ""
    about: Mapping[str, object] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write_result(result: Result, folder: Path, summary: str, figures: Mapping[str, Figure]) -> list[Path]:
    """Writes a result's files, each whole or not at all; the JSON last, so that what it names is there.

    Args:
        result: with its name.
        folder: made where it is missing; files of the same name are replaced.
        summary: the result in words.
        figures: by name.

    Returns:
        The files, the JSON first.
    """
    make_folders(folder)
    files = {table: folder / f"{table}_{result.name}.parquet" for table in result.long}
    pictures = {figure: folder / f"{figure}_{result.name}.png" for figure in figures}
    for table, path in files.items():
        with replacing(path) as partial:
            result.tables[table].to_parquet(partial, index=False)
    for figure, path in pictures.items():
        with replacing(path) as partial:
            figures[figure].savefig(partial, dpi=160, format="png")
    text = folder / f"summary_{result.name}.txt"
    replace_file(text, summary)
    content = {
        "analysis": result.analysis,
        "name": result.name,
        "about": result.about,
        "tables": {name: records(table) for name, table in result.tables.items() if name not in files},
        "integers": {
            name: [str(c) for c in table if str(table[c].dtype) == "Int64"]
            for name, table in result.tables.items()
            if name not in files
        },
        "files": {name: path.name for name, path in (files | pictures | {"summary": text}).items()},
        "warnings": result.warnings,
        "command": f"vlascope-analysis {result.analysis} --config results_{result.name}.json",
        **result.provenance,
        **provenance(*_PACKAGES),
    }
    path = folder / f"results_{result.name}.json"
    # escaped where it is not ASCII: stored text may hold what UTF-8 cannot encode
    replace_file(path, json.dumps(_plain(content), indent=1, default=str, allow_nan=False) + "\n")
    return [path, *files.values(), text, *pictures.values()]


def read_result(path: Path) -> Result:
    """A result from its JSON, with the long tables that lie beside it.

    Raises:
        AnalysisError: it is no result, or a table's file is missing.
    """
    try:
        content = json.loads(path.read_text())
        # a column of whole numbers with gaps would come back as one with fractions
        tables = {
            name: pd.DataFrame(rows).astype(dict.fromkeys(content["integers"][name], "Int64"))
            for name, rows in content["tables"].items()
        }
        files = {name: path.parent / file for name, file in content["files"].items() if file.endswith(".parquet")}
        known = {"analysis", "name", "about", "tables", "integers", "files", "warnings"}
        origin = {key: value for key, value in content.items() if key not in known}
        head = (content["analysis"], content["name"], content["about"], tuple(content["warnings"]))
    except OSError as error:
        raise AnalysisError(
            f"{path}: cannot be read ({error.strerror}); give the results_….json of an analysis"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnalysisError(f"{path}: is no result of an analysis; give its results_….json") from error
    for name, file in files.items():
        try:
            tables[name] = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise AnalysisError(f"{path}: its table {file.name} is missing or damaged beside it ({error})") from error
    analysis, name, about, warnings = head
    return Result(analysis, tables, tuple(files), warnings, name, about, origin)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows, ready for JSON."""
    return [_plain(row) for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
