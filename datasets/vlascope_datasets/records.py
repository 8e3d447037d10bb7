"""What the files of a dataset's metadata may hold. Every field is checked, and none is turned into another kind of value.

A text where a number belongs, a null where a text belongs or a number that is out of range is damage, whichever file it stands
in. Fields that are not listed here are another writer's own, and are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from vlascope_datasets.errors import DamagedError
from vlascope_datasets.statistics import Statistics

_MOST = 2**53
"""Of anything that is counted: what a float counts exactly, and more than any disk holds."""
Count = Annotated[int, Field(ge=0, le=_MOST)]
Whole = Annotated[int, Field(gt=0, le=_MOST)]
Positive = Annotated[float, Field(gt=0)]


class Record(BaseModel):
    """One file or line; further fields are kept in `model_extra`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class FeatureRecord(Record):
    """A column of the dataset, as `meta/info.json` declares it."""

    dtype: Annotated[str, Field(min_length=1)]
    shape: list[Count]


class InfoRecord(Record):
    """`meta/info.json`. What has a default here has the same one in LeRobot; a count that is missing is counted."""

    codebase_version: str
    fps: Positive
    features: dict[str, FeatureRecord]
    robot_type: str | None = None
    total_episodes: Count | None = None
    total_frames: Count | None = None
    total_tasks: Count | None = None
    chunks_size: Whole = 1000
    data_path: str | None = None
    video_path: str | None = None
    data_files_size_in_mb: Positive = 100
    video_files_size_in_mb: Positive = 200


def _written(text: str) -> str:
    """Half of a pair of UTF-16 code units is no character, and cannot be written anywhere else."""
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("unicode", "text of whole characters")
    return text


class TaskRecord(Record):
    """One instruction."""

    task_index: Count
    task: Annotated[str, AfterValidator(_written)]


def _listed(tasks: object) -> object:
    """A text is one task: taken for a list it would be as many as it has letters."""
    return [tasks] if isinstance(tasks, str) else tasks


class EpisodeRecord(Record):
    """One episode, in the fields that every version has."""

    episode_index: Count
    length: Count
    tasks: Annotated[list[Annotated[str, AfterValidator(_written)]], BeforeValidator(_listed)]


class EpisodeStatisticsRecord(Record):
    """The statistics of one episode; what they hold is for `checked_statistics`."""

    episode_index: Count
    stats: dict[str, Any]


class EpisodeRowRecord(EpisodeRecord):
    """One row of v3.0's `meta/episodes`; where its videos lie is a `VideoRecord` a camera."""

    data_chunk_index: Count = Field(alias="data/chunk_index")
    data_file_index: Count = Field(alias="data/file_index")
    dataset_from_index: Count | None = None
    dataset_to_index: Count | None = None


class VideoRecord(Record):
    """Where an episode's video of one camera lies in v3.0."""

    chunk_index: Count
    file_index: Count
    from_timestamp: Annotated[float, Field(ge=0)]
    to_timestamp: Annotated[float, Field(ge=0)] | None = None


R = TypeVar("R", bound=Record)

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "a list that is not empty",
}


def checked_record(kind: type[R], raw: object, where: str) -> R:
    """`raw`, as it was read, as a record.

    Args:
        kind: which record.
        raw: a JSON value, or a row of a table as a map.
        where: file, and line or row, for the message.

    Raises:
        DamagedError: a field is missing, of another kind or out of range; names it, its value and what is expected.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({len(others)} more fields are wrong)" if others else ""
    if first["type"] == "missing":
        raise DamagedError(f"{where}: lacks {path!r}{more}")
    expected = _EXPECTED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    found = json.dumps(first["input"], default=repr)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    raise DamagedError(f"{where}: {path + ': ' if path else ''}expected {expected}, found {found}{more}")


def checked_statistics(raw: object, where: str) -> Statistics:
    """Statistics by feature and name, as a JSON file or the columns of a table have them, as arrays of numbers.

    Raises:
        DamagedError: something else than numbers, named by feature and statistic.
    """
    if not isinstance(raw, Mapping):
        raise DamagedError(f"{where}: expected an object of statistics by feature, found {type(raw).__name__}")
    found: Statistics = {}
    for key, values in raw.items():
        if not isinstance(values, Mapping):
            raise DamagedError(f"{where}: {key}: expected an object of statistics, found {type(values).__name__}")
        found[key] = {}
        for name, value in values.items():
            try:
                array = np.asarray(value)
            except ValueError:
                array = np.asarray(None)
            if array.dtype.kind not in "fiub":
                raise DamagedError(f"{where}: {key}: {name}: expected numbers, found {value!s:.60}")
            found[key][name] = array
    return found
