"""Writes checkpoints of every format, whole or not at all; and opens policies whose weights are drawn as if they were saved."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from vlascope_server.checkpoints.config_file import Features
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.files import NORM_STATS_FILE, TOKENIZER_FILE, TORCH_FILE, Kind
from vlascope_server.checkpoints.load import load_checkpoint, load_statistics, warn_not_finite
from vlascope_server.checkpoints.record import Record, Sidecars, record_of, write_record
from vlascope_server.checkpoints.source import LEROBOT, Source, open_source
from vlascope_server.checkpoints.unfinished import unfinished
from vlascope_server.checkpoints.weights import largest_first
from vlascope_server.model import Pi0Config, check_shapes
from vlascope_server.options import CheckpointOptions
from vlascope_server.presets import SEEDED
from vlascope_server.robots.norm_stats import NormStats, save_norm_stats

_NO_SIDECARS = Sidecars()


def save_checkpoint(
    folder: str | Path,
    params: Mapping[str, jax.Array | np.ndarray],
    config: Pi0Config,
    sidecars: Sidecars = _NO_SIDECARS,
    *,
    kind: Kind = "orbax",
) -> Path:
    """Writes parameters, statistics and `vlascope.json`, so that `load_checkpoint` needs no further argument.

    Args:
        folder: must not exist.
        params: flat name -> array, of the shapes that `config` says.
        config: its horizon, token length, cameras, image size and adapters' alpha are recorded.
        sidecars: what lies beside the parameters; `config` overrules its record. LeRobot's format has a place of its own for
            statistics.
        kind: the format.

    Raises:
        CheckpointError: the folder exists, or the parameters have no form in this format.
        ParameterError: the parameters are not those of `config`.
    """
    with unfinished(Path(folder)) as partial:
        write_checkpoint(partial, params, config, sidecars, kind=kind)
    return Path(folder)


def write_checkpoint(
    folder: Path,
    params: Mapping[str, jax.Array | np.ndarray],
    config: Pi0Config,
    sidecars: Sidecars,
    *,
    kind: Kind = "orbax",
) -> None:
    """Writes as `save_checkpoint`, into a folder that exists and is not finished yet.

    Raises:
        CheckpointError: the parameters have no form in this format.
        ParameterError: the parameters are not those of `config`.
    """
    check_shapes({name: tuple(array.shape) for name, array in params.items()}, config)
    norm_stats, asset_id, tokenizer = sidecars.norm_stats, sidecars.asset_id, sidecars.tokenizer
    record = dataclasses.replace(record_of(config).over(sidecars.record), asset_id=asset_id)
    if kind == "lerobot":
        from vlascope_server.checkpoints.lerobot_write import lerobot_record

        record = lerobot_record(folder, config, record, norm_stats)
    arrays = {name: np.asarray(array) for name, array in params.items()}
    _write(folder, kind, arrays)
    if kind == "lerobot":
        dtypes = {array.dtype.name for array in arrays.values()}
        _write_lerobot(folder, config, record, norm_stats, dtypes, own_tokenizer=tokenizer is not None)
    elif norm_stats is not None and asset_id is not None:
        (folder / "assets" / asset_id).mkdir(parents=True)
        save_norm_stats(folder / "assets" / asset_id / NORM_STATS_FILE, norm_stats)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    write_record(folder, record)


def convert_checkpoint(source: Source, folder: str | Path, kind: Kind, dtype: str | None = None) -> Path:
    """Writes a checkpoint anew in a format and a dtype, with its statistics and what is known about it.

    LeRobot's format has room for one set of statistics: the one of `source.record.asset_id`, or the only one.

    Args:
        source: the opened checkpoint.
        folder: must not exist.
        kind: the format to write.
        dtype: of the parameters; None keeps each as it is stored, and the conversion exact.

    Raises:
        CheckpointError: the folder exists, the source is damaged, or it has no form in this format.
    """
    config = source.config()
    known = dataclasses.replace(record_of(config), cameras=source.record.cameras)
    unknown = {f: None for f in ("action_horizon", "max_token_len") if getattr(source.record, f) is None}
    record = dataclasses.replace(known, **unknown).over(source.record)
    if kind != "orbax":
        from vlascope_server.checkpoints.torch_format import check_has_torch_form

        check_has_torch_form(source.weights.shapes)
    stats: Mapping[str, NormStats] | None = None
    if kind == "lerobot":
        from vlascope_server.checkpoints.lerobot_write import lerobot_record

        stats, asset_id = load_statistics(source, config.action_dim)
        if asset_id is None and source.asset_ids:
            raise CheckpointError(
                f"{source.files.root}: has the statistics of {', '.join(source.asset_ids)}, and LeRobot has room for one",
                "choose with <asset_id>",
            )
        record = lerobot_record(source.files.root, config, record, stats, was_lerobot=source.features is not None)
    with unfinished(Path(folder)) as partial:
        _write(partial, kind, _LazyParams(source, dtype))
        if kind == "lerobot":
            dtypes = {dtype} if dtype else set(source.weights.dtypes.values())
            own = source.files.tokenizer is not None
            _write_lerobot(partial, config, record, stats, dtypes, features=source.features, own_tokenizer=own)
        else:
            _write_statistics(partial, source)
        if source.files.tokenizer is not None:
            shutil.copyfile(source.files.tokenizer, partial / TOKENIZER_FILE)
        write_record(partial, record)
    return Path(folder)


@contextlib.contextmanager
def opened(location: str, preset: str | None = None, like: str | None = None) -> Iterator[Source]:
    """`open_source`, which also takes the policies whose weights are drawn: they are written to a temporary folder.

    Raises:
        CheckpointError: as `open_source`.
    """
    if location not in SEEDED or Path(location).exists():
        yield open_source(location, preset, like)
        return
    drawn = load_checkpoint(location, CheckpointOptions(preset=preset, like=like), dtype="float32")
    beside = Sidecars(
        norm_stats=drawn.norm_stats, asset_id=drawn.asset_id, record=drawn.record, tokenizer=drawn.tokenizer
    )
    with tempfile.TemporaryDirectory() as folder:
        yield open_source(save_checkpoint(Path(folder) / location, drawn.params, drawn.config, beside))


def _write_statistics(folder: Path, source: Source) -> None:
    """All of them: files as they are, and those that LeRobot keeps elsewhere as a file."""
    for path in source.files.assets.values():
        target = folder / path.relative_to(source.files.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if source.lerobot_stats:
        target = folder / "assets" / LEROBOT / NORM_STATS_FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        save_norm_stats(target, source.lerobot_stats)


def _write_lerobot(
    folder: Path,
    config: Pi0Config,
    record: Record,
    stats: Mapping[str, NormStats] | None,
    dtypes: set[str],
    *,
    features: Features | None = None,
    own_tokenizer: bool,
) -> None:
    from vlascope_server.checkpoints.lerobot_write import write_lerobot

    dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
    write_lerobot(folder, config, record, stats, dtype=dtype, features=features, own_tokenizer=own_tokenizer)


class _LazyParams(Mapping[str, np.ndarray]):
    """Parameters that are read when asked for, once each."""

    def __init__(self, source: Source, dtype: str | None):
        self._source, self._dtype = source, dtype

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._source.weights.read(name, self._dtype)
        warn_not_finite(self._source.files, name, array)
        return array

    def __iter__(self):
        return largest_first(self._source.weights)

    def __len__(self) -> int:
        return len(self._source.weights.shapes)


def _write(folder: Path, kind: Kind, params: Mapping[str, np.ndarray]) -> None:
    if kind == "orbax":
        from vlascope_server.checkpoints.orbax_format import write_orbax

        write_orbax(folder / "params", params)
    else:
        from vlascope_server.checkpoints.torch_format import write_torch
        from vlascope_server.checkpoints.torch_names import LEROBOT_PREFIX

        write_torch(folder / TORCH_FILE, params.items(), LEROBOT_PREFIX if kind == "lerobot" else "")
