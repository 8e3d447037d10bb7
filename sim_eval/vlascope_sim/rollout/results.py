"""Results of episodes: one line each, safe on disk before the next begins.

`episodes.jsonl` gets a line for every attempt that ended: `done`, `lost` (its worker died or hung, or its server went away;
it is tried again), or `error` (lost for the last time: neither a success nor a failure). A torn last line, from a process
that was killed, is no result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vlascope_base.files import append_line, replacing

from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import EpisodeKey

RESULT_FILE = "episodes.jsonl"
Status = Literal["done", "lost", "error"]
_MAPS = ("versions", "perturbation")
"""JSON in a table: their fields differ from row to row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One attempt at one episode.

    Attributes:
        suite, task_id, task_name: which task.
        instruction: what the policy was told; empty where that was nothing.
        task_instruction: what the scene's own task says.
        prompt_mode: the campaign's; `given` where the campaign has words of its own for the task.
        told_object: the object that it was told to take, as the scene names it; None where it was told none, or that is not
            known.
        told_goal: `predicate object place` that success was judged by; None for the task's own goal.
        lifted_first: the object that was first lifted by 5 cm; None where none was.
        episode_index, noise_index: which episode of the task, which repeat of it.
        init_state: index of the initial state that it started from.
        attempt: from 1.
        status: see the module.
        reason: why an attempt was lost.
        success: the goal was reached; None unless done.
        steps: environment steps of the policy.
        inferences, captures: asked of the server.
        perturb: what was done to the scene; perturbation: what became of it (`PerturbationRecord`), with its seed.
        seed, environment_seed, noise_seed: the campaign's, the scene's, the policy's noise.
        campaign: the campaign's id.
        episode: id in the store, which begins with the campaign's; `run`, `store_attempt`: where the server put it;
            `frames`: committed; `dropped`: not stored; `frame_bytes`: of one.
        assets, assets_hash: `official` or `stand-in`, and what of.
        render: mode of drawing.
        settle_speed: of the fastest object after settling, m/s.
        trajectory: digest of all states and actions: equal for equal episodes.
        warnings: of the server, each text once, such as that the prompt was cut.
        latency_ms: of every inference, from request to actions; model_ms: the part that the server's device took.
        seconds: of the whole attempt.
        video: path in the results' folder, with how the episode ended in its name; files_error: which files could not be
            written, and why.
        checkpoint, fingerprint, server: the policy's.
        versions, git: of this side.
        started: UTC, ISO 8601.
    """

    suite: str
    task_id: int
    task_name: str
    instruction: str
    task_instruction: str
    prompt_mode: str = "task"
    told_object: str | None = None
    told_goal: str | None = None
    lifted_first: str | None = None
    perturb: str = "none"
    perturbation: dict[str, object] | None = None
    episode_index: int
    noise_index: int
    init_state: int
    attempt: int
    status: Status
    reason: str | None = None
    success: bool | None = None
    steps: int = 0
    inferences: int = 0
    captures: int = 0
    seed: int
    environment_seed: int
    noise_seed: int
    campaign: str
    episode: str
    run: str | None = None
    store_attempt: int | None = None
    frames: int | None = None
    dropped: int | None = None
    frame_bytes: int | None = None
    assets: str
    assets_hash: str
    render: str
    settle_speed: float | None = None
    trajectory: str | None = None
    warnings: tuple[str, ...] = ()
    latency_ms: tuple[float, ...] = ()
    model_ms: tuple[float, ...] = ()
    seconds: float = 0.0
    video: str | None = None
    files_error: str | None = None
    checkpoint: str | None = None
    fingerprint: str | None = None
    server: str | None = None
    versions: dict[str, str]
    git: str | None
    started: str

    @property
    def name(self) -> str:
        """The episode's within its campaign, and of its files."""
        return self.episode.partition("+")[2]

    @property
    def key(self) -> EpisodeKey:
        """Which episode of the campaign."""
        return EpisodeKey(self.task_id, self.episode_index, self.noise_index)


class ResultFile:
    """`episodes.jsonl`, read when this is made, then appended to by this process alone. A torn last line is cut off.

    Attributes:
        rows: every line, in order.

    Raises:
        RolloutError: a line other than the last is no result.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows, length = _read(path)
        with path.open("ab") as file:
            file.truncate(length)

    def append(self, row: EpisodeResult) -> None:
        """Adds a line, on disk when this returns."""
        append_line(self.path, dataclasses.asdict(row))
        self.rows.append(row)

    def attempts(self, key: EpisodeKey) -> int:
        """How many attempts at an episode have ended."""
        return sum(row.key == key for row in self.rows)


def read_results(path: Path) -> list[EpisodeResult]:
    """Every line, in order; changes nothing.

    Raises:
        RolloutError: a line other than the last is no result.
    """
    return _read(path)[0]


def final_rows(rows: Iterable[EpisodeResult]) -> list[EpisodeResult]:
    """The row that counts of every episode that has one (`done`, else `error`), in order of task, episode and noise."""
    final: dict[EpisodeKey, EpisodeResult] = {}
    for row in rows:
        known = final.get(row.key)
        if row.status != "lost" and not (known and known.status == "done"):
            final[row.key] = row
    return [final[key] for key in sorted(final)]


def write_parquet(path: Path, rows: list[EpisodeResult]) -> None:
    """One row an episode, for those who read tables; replaces the file whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**dataclasses.asdict(row), **{name: json.dumps(getattr(row, name)) for name in _MAPS}} for row in rows]
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(records, schema=_schema()), partial)


def _read(path: Path) -> tuple[list[EpisodeResult], int]:
    """The rows, and how many bytes their lines have."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(_from_map(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RolloutError(f"{path}, line {number}: no result of an episode ({error})") from error
    return rows, len(whole)


def _schema():
    import pyarrow as pa

    kinds = {
        "str": pa.string(), "str | None": pa.string(), "Status": pa.string(), "int": pa.int64(), "int | None": pa.int64(),
        "float": pa.float64(), "float | None": pa.float64(), "bool | None": pa.bool_(), "dict[str, str]": pa.string(),
        "dict[str, object] | None": pa.string(),
        "tuple[float, ...]": pa.list_(pa.float64()),
        "tuple[str, ...]": pa.list_(pa.string()),
    }  # fmt: skip
    return pa.schema([(field.name, kinds[str(field.type)]) for field in dataclasses.fields(EpisodeResult)])


def _from_map(found: dict[str, Any]) -> EpisodeResult:
    fields = dataclasses.fields(EpisodeResult)
    names = {field.name for field in fields}
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if wrong := sorted({*(found.keys() - names), *(needed - found.keys())}):
        raise ValueError(
            f"fields {', '.join(wrong)} are unknown or missing: another vlascope wrote it, give a new folder"
        )
    row = EpisodeResult(**found)
    lists = {name: tuple(getattr(row, name)) for name in ("warnings", "latency_ms", "model_ms")}
    return dataclasses.replace(row, **lists)
