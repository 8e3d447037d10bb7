"""The two tables of v3.0's metadata: tasks and episodes, with the types that LeRobot gives them. Knows nothing of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vlascope_datasets.layouts.prepared import Prepared

EPISODES_FILE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def tasks_table(tasks: Mapping[int, str]) -> pa.Table:
    """Of `meta/tasks.parquet`. LeRobot reads it with pandas and looks tasks up in its index, so `task` is declared as one."""
    table = pa.table({"task_index": pa.array(tasks, pa.int64()), "task": pa.array(tasks.values(), pa.string())})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    labels = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [labels | {"metadata": {"encoding": "UTF-8"}}],
        "columns": described,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episodes_table(rows: list[dict[str, Any]], episodes: list[Prepared]) -> pa.Table:
    """Of one file of `meta/episodes`: a row an episode, its statistics flattened to `stats/<feature>/<name>`."""
    table = pa.Table.from_pylist(rows)
    keys = dict.fromkeys((key, name) for e in episodes for key, values in e.statistics.items() for name in values)
    for key, name in keys:
        values = [e.statistics.get(key, {}).get(name) for e in episodes]
        listed = pa.array([None if value is None else value.tolist() for value in values])
        table = table.append_column(f"stats/{key}/{name}", listed)
    return table
