"""Parquet files, read in parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlascope_datasets.errors import DamagedError, DatasetError


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing") from error
    except KeyError as error:
        raise DamagedError(f"{path}: lacks a column: {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"{path}: no readable Parquet file ({line})") from error


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file, its footer read.

    Raises:
        DatasetError: it is missing.
        DamagedError: it is no Parquet file.
    """
    with _named(path):
        return pq.ParquetFile(path)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole Parquet file, or some of its columns; errors as `open_table`."""
    with _named(path), pq.ParquetFile(path) as file:
        return file.read(columns=columns)


def read_rows(path: Path, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
    """Rows `start` to `stop`, reading no other row groups than theirs.

    Raises:
        DatasetError: the file is missing.
        DamagedError: it is no Parquet file, lacks a column, or has fewer rows.
    """
    with _named(path), pq.ParquetFile(path) as file:
        names = set(file.schema_arrow.names)
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise DamagedError(f"{path}: lacks the column {missing[0]}; has {', '.join(sorted(names))}")
        if stop > file.metadata.num_rows:
            raise DamagedError(f"{path}: expected at least {stop} rows, found {file.metadata.num_rows}")
        groups, begin, offset = [], 0, None
        for number in range(file.metadata.num_row_groups):
            end = begin + file.metadata.row_group(number).num_rows
            if begin < stop and end > start:
                groups.append(number)
                offset = begin if offset is None else offset
            begin = end
        table = file.read_row_groups(groups, columns=columns)
        return table.slice(start - (offset or 0), stop - start)
