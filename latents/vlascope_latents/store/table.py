"""The table of sealed episodes, `episodes.parquet`: ten thousand of them open with one read.

The attributes of each episode's group are the truth; the table is a copy of them.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from vlascope_base.files import replace_file

from vlascope_latents.store.errors import DamagedError
from vlascope_latents.store.run_folder import split_id

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("folder", "episode", "campaign", "status", "suite", "task_name", "instruction",
            "task_instruction", "metadata")),
        *((name, pa.int64()) for name in ("attempt", "task_id", "episode_index", "frames", "bytes", "dropped", "total_steps")),
        ("success", pa.bool_()),
        ("sealed_at", pa.string()),
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EpisodeRow:
    """One attempt at an episode.

    Attributes:
        folder: its group and index file.
        episode: id, `CAMPAIGN+NAME` or a name: another campaign's episode is another episode.
        attempt: from 1.
        status: `open`, `sealed` or `interrupted`.
        frames: committed frames; of an `open` episode, 0 here: its index knows.
        nbytes: bytes of their tensors, uncompressed.
        dropped: frames that `on_full="drop"` left out.
        metadata: what is known of the episode: suite, task_id, task_name, `instruction` (what the policy was told),
            `task_instruction` (what the scene's own task says), …; once sealed, what was said at its end too.
        success: None where nobody said.
        total_steps: environment steps; None where nobody said.
        sealed_at: ISO 8601, UTC; None while open.
    """

    folder: str
    episode: str
    attempt: int
    status: str
    frames: int
    nbytes: int
    dropped: int
    metadata: Mapping[str, Any]
    success: bool | None
    total_steps: int | None
    sealed_at: str | None

    @property
    def campaign(self) -> str | None:
        """The campaign that it is part of; None where it is part of none."""
        return split_id(self.episode)[0]

    @property
    def name(self) -> str:
        """Its id within the campaign."""
        return split_id(self.episode)[1]

    @classmethod
    def from_attributes(cls, folder: str, attributes: Mapping[str, Any]) -> EpisodeRow:
        """Reads the attributes of the episode's group; KeyError where they are not an episode's."""
        return cls(
            folder, attributes["episode"], attributes["attempt"], attributes["status"], attributes.get("frames", 0),
            attributes.get("bytes", 0), attributes.get("dropped", 0), attributes["metadata"],
            attributes.get("success"), attributes.get("total_steps"), attributes.get("sealed_at"),
        )  # fmt: skip


def read_table(path: Path) -> list[EpisodeRow]:
    """The rows of episodes.parquet; none where there is no file.

    Raises:
        DamagedError: the file is no such table.
    """
    try:
        columns = pq.read_table(pa.BufferReader(path.read_bytes()), schema=_SCHEMA).to_pydict()
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(f"{path}: no table of episodes ({reason}): delete it and recover the run") from error
    fields = [field.name for field in dataclasses.fields(EpisodeRow)]
    columns |= {"nbytes": columns["bytes"], "metadata": [json.loads(value) for value in columns["metadata"]]}
    return [EpisodeRow(*row) for row in zip(*(columns[field] for field in fields), strict=True)]


def write_table(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Replaces episodes.parquet, atomically."""
    records = []
    for row in rows:
        record = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        record["bytes"] = record.pop("nbytes")
        record["campaign"] = row.campaign
        for name, kind in (
            ("suite", str),
            ("task_name", str),
            ("instruction", str),
            ("task_instruction", str),
            ("task_id", int),
            ("episode_index", int),
        ):
            value = row.metadata.get(name)
            record[name] = value if isinstance(value, kind) else None
        record["metadata"] = json.dumps(dict(row.metadata))
        records.append(record)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), sink)
    replace_file(path, sink.getbuffer())
