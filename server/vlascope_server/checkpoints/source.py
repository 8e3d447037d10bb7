"""Opens a checkpoint wherever it lies and whatever its format: its files, what is known of it, its parameters still on disk.

What shapes do not tell comes from several places. From the one that is believed most: what the caller asks for,
`vlascope.json`, LeRobot's or openpi's own files beside the parameters, the preset. The middle two are facts of the checkpoint:
whoever contradicts `config.json` or a processor is refused, since a wrong value runs, and gives wrong actions.
"""

from __future__ import annotations

import dataclasses
import logging
import urllib.parse
from pathlib import Path

from vlascope_base.files import local

from vlascope_server.checkpoints.config_file import ConfigFile, Features, read_config
from vlascope_server.checkpoints.drawn import DrawnWeights, drawn_seed
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.files import BESIDE, CheckpointFiles, Kind, find_files
from vlascope_server.checkpoints.lerobot_processors import Processors, read_buffers, read_processors
from vlascope_server.checkpoints.record import FILE, Record, read_record
from vlascope_server.checkpoints.remote import fetch, is_remote
from vlascope_server.checkpoints.weights import Weights
from vlascope_server.model import CAMERAS, ParameterError, Pi0Config, infer_config
from vlascope_server.presets import PRESETS, SEEDED, Preset
from vlascope_server.robots.norm_stats import NormStats, NormStatsError, load_norm_stats

LEROBOT = "lerobot"
"""The asset id of the statistics in LeRobot's own files."""

_log = logging.getLogger(__name__)

_COMPARED = ("action_horizon", "max_token_len", "normalisation", "delta_actions", "state_in_prompt")
_LENGTHS = ("action_horizon", "max_token_len")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of which no parameter has been read.

    Attributes:
        files: its files.
        record: everything that is known beyond the parameters' shapes.
        weights: names, shapes and dtypes; reads one parameter at a time.
        beside: what `config.json` and LeRobot's processors say of a record's fields.
        fields: a record's field -> the file beside and the field in it that say so.
        features: LeRobot's names of what goes in and out; None for another checkpoint.
        lerobot_stats: the statistics in LeRobot's own files, if there are any.
        drawn: what the weights are where they were drawn anew, such as `drawn:3 like tiny`; None where they are read.
    """

    files: CheckpointFiles
    record: Record
    weights: Weights
    beside: Record = Record()  # noqa: RUF009 frozen
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    features: Features | None = None
    lerobot_stats: dict[str, NormStats] | None = None
    drawn: str | None = None

    @property
    def kind(self) -> Kind:
        """The format; of drawn weights, that of the checkpoint that they are like."""
        return self.files.kind if self.features is None else "lerobot"

    @property
    def origin(self) -> str:
        """Where the weights come from: their files, or what they are where they were drawn anew."""
        return self.drawn or str(self.files.weights)

    @property
    def asset_ids(self) -> tuple[str, ...]:
        """Of the statistics that there are to choose from."""
        return (*((LEROBOT,) if self.lerobot_stats else ()), *self.files.assets)

    def asked(self, asked: Record, *, may_differ: bool = False) -> Source:
        """The same checkpoint, of which the caller says more.

        Args:
            asked: overrules `vlascope.json` and the preset.
            may_differ: horizon and token length may be others than `config.json` says: those of a policy that is to be trained.

        Raises:
            CheckpointError: a number is not positive, there are no such statistics, or something contradicts `config.json` or
                a processor; names both values.
        """
        check_asked(asked)
        if asked.asset_id is not None:
            self._check_asset_id(asked.asset_id)
        compared = dataclasses.replace(asked, **dict.fromkeys(_LENGTHS)) if may_differ else asked
        _refuse_contradiction(self, compared, "{field} {value} was asked for", "leave <{field}> away")
        return dataclasses.replace(self, record=asked.over(self.record))

    def norm_stats(self, asset_id: str) -> dict[str, NormStats]:
        """The statistics of one asset id, `state` and `actions`.

        Raises:
            CheckpointError: there are none of this id, or they are damaged.
        """
        self._check_asset_id(asset_id)
        if asset_id == LEROBOT and self.lerobot_stats:
            return self.lerobot_stats
        try:
            return load_norm_stats(self.files.assets[asset_id])
        except NormStatsError as error:
            raise CheckpointError(str(error)) from error

    def _check_asset_id(self, asset_id: str) -> None:
        if asset_id not in self.asset_ids:
            found = [f"{name} (beside the parameters)" if name == BESIDE else name for name in self.asset_ids]
            raise CheckpointError(
                f"{self.files.root / 'assets' / asset_id / 'norm_stats.json'}: missing; asset ids found:"
                f" {', '.join(found) or 'none'}",
                "name one of these with <asset_id>, or copy the file there" if found else "copy the file there",
            )

    def chosen_asset_id(self) -> str | None:
        """The asset id that is asked for or recorded, or the only one; None where there is none, or several and no choice."""
        if self.record.asset_id is not None:
            return self.record.asset_id
        return self.asset_ids[0] if len(self.asset_ids) == 1 else None

    def config(self, dtype: str = "float32") -> Pi0Config:
        """The architecture; `dtype` of the activations. An action horizon or token length of 0 says: not known.

        Raises:
            CheckpointError: the parameters are no Pi0 or Pi0.5, or the record contradicts them.
        """
        record = self.record
        try:
            config = infer_config(
                self.weights.shapes,
                action_horizon=record.action_horizon or 0,
                max_token_len=record.max_token_len or 0,
                cameras=record.cameras or CAMERAS,
                lora_alpha=record.lora_alpha,
                dtype=dtype,
            )
        except ParameterError as error:
            raise CheckpointError(f"{self.files.weights}: {error}; is this a Pi0 or Pi0.5 of the reference?") from error
        except ValueError as error:
            raise CheckpointError(f"{self.files.weights}: {error}") from error
        unknown = set(config.cameras) - set(CAMERAS)
        if unknown:
            raise CheckpointError(
                f"{self.files.root}: cameras: expected some of {list(CAMERAS)}, found {sorted(unknown)}: correct {FILE}"
            )
        if record.image_size not in (None, config.vision.image_size):
            raise CheckpointError(
                f"{self.files.root / FILE}: image_size: it says {record.image_size} pixels, the parameters"
                f" {config.vision.image_size}; they belong to different checkpoints"
            )
        return config


def open_source(location: str | Path, preset: str | None = None, like: str | None = None) -> Source:
    """Opens a checkpoint; fetches a remote one first.

    Args:
        location: a step folder, its `params/`, a safetensors file or an index of several, a URL of one of these, or a preset's
            name; or `drawn:SEED`.
        preset: name of the preset that fills in what the checkpoint's own files do not say.
        like: the checkpoint that drawn weights take everything else from.

    Raises:
        CheckpointError: no whole checkpoint is there, no such preset, or what is said of it is contradictory.
    """
    location = str(location)
    seed = drawn_seed(location, like)
    if seed is not None and like is not None:
        source = open_source(like, preset)
        untrained = dataclasses.replace(source.record, step=None, trained_on=None)
        weights, said = DrawnWeights(source.weights, seed), f"{location} like {like}"
        return dataclasses.replace(source, record=untrained, weights=weights, drawn=said)
    if location in SEEDED and not Path(location).exists():
        raise CheckpointError(f"{location}: its weights are drawn, not read; expected a checkpoint: save one first")
    if location in PRESETS and not Path(location).exists():
        preset = preset or location
        location = PRESETS[location].location
    known = find_preset(preset) if preset else None
    files = find_files(local_path(location))
    record = read_record(files.root)
    config = read_config(files.root, may_be_lerobot=files.kind == "safetensors")
    said = record.over(_as_record(known, files)) if known else record
    weights, processors = _open_weights(files, said, config)
    if known and known.pi05 != ("time_mlp_in/kernel" in weights.shapes):
        kinds = ("pi0", "pi0.5")
        raise CheckpointError(
            f"{files.weights}: preset {known.name} is a {kinds[known.pi05]}, the checkpoint is a {kinds[not known.pi05]}",
            f"choose another <preset> of {', '.join(PRESETS)}",
        )
    beside, fields = _facts(config, processors)
    features = config.features if config else None
    source = Source(files, record, weights, beside, fields, features, processors.norm_stats)
    _refuse_contradiction(
        source, record, f"{files.root / FILE} says {{field}} {{value}}", "correct the one that is wrong"
    )
    if known:
        others = ", ".join(name for name in PRESETS if name != known.name)
        do = f"leave <preset> away, or choose another of {others}"
        _refuse_contradiction(
            source, _as_record(known, files), f"preset {known.name} says {{field}} {{value}}", do, roughly=True
        )
        beside = beside.over(_as_record(known, files))
    if processors.prompt_unsure and record.prompt_state_dim is None:
        _log.warning(
            "%s: does not tell whether the state was padded to 32 numbers in its prompts, as LeRobot 0.4 did; it is read"
            ' without, as LeRobot does since 0.5; else put {"schema": 1, "prompt_state_dim": 32} into a %s beside it',
            files.root, FILE,
        )  # fmt: skip
    return dataclasses.replace(source, record=record.over(beside).over(Record(step=_step(files))))


def check_asked(asked: Record) -> None:
    """Raises `CheckpointError` where a length that a caller asks for is not positive."""
    for field in _LENGTHS:
        value = getattr(asked, field)
        if value is not None and value < 1:
            raise CheckpointError(f"{field}: expected at least 1, found {value}", f"give another <{field}>")


def find_preset(name: str) -> Preset:
    """A preset by name; raises `CheckpointError` that lists them all."""
    if name not in PRESETS:
        raise CheckpointError(f"preset {name!r}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def local_path(location: str) -> Path:
    """Where a location is on this machine; downloads a remote one. Raises `VlascopeError` for `~` of a user who is unknown."""
    if is_remote(location):
        return fetch(location)
    if location.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(location).path))
    return local(location)


def _open_weights(files: CheckpointFiles, record: Record, config: ConfigFile | None) -> tuple[Weights, Processors]:
    """The parameters, and the normalisation that LeRobot's files or parameters hold."""
    if files.kind == "orbax":
        from vlascope_server.checkpoints.orbax_format import OrbaxWeights

        weights = OrbaxWeights(files.weights)
        if config:
            config.check_shapes(weights.shapes)
        return weights, Processors()
    from vlascope_server.checkpoints.torch_format import TorchWeights

    weights = TorchWeights(files.weights, vision_heads=record.vision_heads, kv_heads=record.kv_heads)
    if config:
        config.check_shapes(weights.shapes)
    if buffers := weights.normalisers():
        return weights, read_buffers(files.weights, buffers, config)
    if config and config.is_lerobot:
        return weights, read_processors(files.root, config)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        if (files.root / name).is_file():
            raise CheckpointError(
                f"{files.root}: holds LeRobot's {name}, and no config.json whose type is pi0 or pi05: copy config.json again"
            )
    return weights, Processors()


def _facts(config: ConfigFile | None, processors: Processors) -> tuple[Record, dict[str, str]]:
    """What the files beside the parameters say of a record's fields, and where."""
    said = config.record if config else Record()
    fields = {field: f"{config.path}: {name}" for field, name in config.fields.items()} if config else {}
    if None not in (processors.max_token_len, said.max_token_len) and processors.max_token_len != said.max_token_len:
        raise CheckpointError(
            f"{processors.fields['max_token_len']}: it says {processors.max_token_len}, and {fields['max_token_len']} says"
            f" {said.max_token_len}: they belong to different checkpoints"
        )
    told = Record(max_token_len=processors.max_token_len, normalisation=processors.normalisation)
    return said.over(told), {**processors.fields, **fields}


def _refuse_contradiction(source: Source, said: Record, who: str, do: str, *, roughly: bool = False) -> None:
    """Raises `CheckpointError` where `said` is not what the files beside the parameters say.

    Args:
        who: says so; `{field}` and `{value}` stand for what.
        do: what the reader can do; `{field}` stands for the argument.
        roughly: openpi's formula of normalisation agrees with LeRobot's of the same kind.
    """
    for field in _COMPARED:
        value, fact = getattr(said, field), getattr(source.beside, field)
        shared = [str(x).removeprefix("lerobot_") if roughly else x for x in (value, fact)]
        if None not in (value, fact) and shared[0] != shared[1]:
            raise CheckpointError(
                f"{source.fields[field]}: it says {fact}, and {who.format(field=field, value=value)}",
                do.format(field=field),
            )


def _step(files: CheckpointFiles) -> int | None:
    """The training step that the files tell: the optimiser's state, or the name of the step's folder."""
    from vlascope_server.checkpoints.orbax_format import read_step

    step = read_step(files.train_state)
    if step is None and files.root.resolve().name.isdigit():
        return int(files.root.resolve().name)
    return step


def _as_record(preset: Preset, files: CheckpointFiles) -> Record:
    """What a preset says. Of another checkpoint than its own, statistics under its asset id need not be there."""
    shared = {field.name for field in dataclasses.fields(Record)} & {field.name for field in dataclasses.fields(Preset)}
    record = Record(**{field: getattr(preset, field) for field in shared})
    return record if record.asset_id in files.assets else dataclasses.replace(record, asset_id=None)
