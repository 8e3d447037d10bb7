"""Opens a checkpoint wherever it lies and whatever its format: its files, its record, and its parameters still on disk.

Knows nothing of what is then done with the parameters.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from pathlib import Path

from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.layout import Layout, find_layout
from vlascope_server.checkpoints.record import Record, read_record
from vlascope_server.checkpoints.remote import fetch, is_remote
from vlascope_server.checkpoints.weights import Weights
from vlascope_server.model import CAMERAS, ParameterError, Pi0Config, infer_config
from vlascope_server.presets import PRESETS, SEEDED, Preset


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint of which no parameter has been read.

    Attributes:
        layout: its files.
        record: what `vlascope.json`, then the preset, then the files themselves say.
        weights: names, shapes and dtypes; reads one parameter at a time.
    """

    layout: Layout
    record: Record
    weights: Weights

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
            raise CheckpointError(
                f"{self.layout.weights}: {error}; is this a Pi0 or Pi0.5 of the reference?"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{self.layout.weights}: {error}") from error
        unknown = set(config.cameras) - set(CAMERAS)
        if unknown:
            raise CheckpointError(f"cameras: expected some of {list(CAMERAS)}, found {sorted(unknown)}")
        if record.image_size not in (None, config.vision.image_size):
            raise CheckpointError(
                f"{self.layout.root}: image_size: the record says {record.image_size} pixels, the parameters"
                f" {config.vision.image_size}; they belong to different checkpoints"
            )
        return config


def open_source(location: str | Path, preset: str | None = None) -> Source:
    """Opens a checkpoint; fetches a remote one first.

    Args:
        location: a step folder, its `params/`, a safetensors file, a URL of one of these, or a preset's name.
        preset: name of the preset that fills in what the checkpoint's own record does not say.

    Raises:
        CheckpointError: no whole checkpoint is there, or no such preset.
    """
    location = str(location)
    if location in SEEDED and not Path(location).exists():
        raise CheckpointError(f"{location}: its weights are drawn, not read; expected a checkpoint: save one first")
    if location in PRESETS and not Path(location).exists():
        preset = preset or location
        location = PRESETS[location].location
    known = find_preset(preset) if preset else None
    layout = find_layout(local_path(location))
    record = read_record(layout.root)
    if known:
        record = record.over(_as_record(known, layout))
    weights = _open_weights(layout, record)
    if known and known.pi05 != ("time_mlp_in/kernel" in weights.shapes):
        kinds = ("pi0", "pi0.5")
        raise CheckpointError(
            f"{layout.weights}: preset {known.name} is a {kinds[known.pi05]}, the checkpoint is a"
            f" {kinds[not known.pi05]}; choose another preset of {', '.join(PRESETS)}"
        )
    return Source(layout, record.over(Record(step=_step(layout))), weights)


def find_preset(name: str) -> Preset:
    """A preset by name; raises `CheckpointError` that lists them all."""
    if name not in PRESETS:
        raise CheckpointError(f"preset {name!r}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def local_path(location: str) -> Path:
    """Where a location is on this machine; downloads a remote one."""
    if is_remote(location):
        return fetch(location)
    if location.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(location).path))
    return Path(location).expanduser()


def _open_weights(layout: Layout, record: Record) -> Weights:
    if layout.kind == "orbax":
        from vlascope_server.checkpoints.orbax_format import OrbaxWeights

        return OrbaxWeights(layout.weights)
    from vlascope_server.checkpoints.torch_format import TorchWeights

    return TorchWeights(layout.weights, vision_heads=record.vision_heads, kv_heads=record.kv_heads)


def _step(layout: Layout) -> int | None:
    """The training step that the files tell: the optimiser's state, or the name of the step's folder."""
    from vlascope_server.checkpoints.orbax_format import read_step

    step = read_step(layout.train_state)
    if step is None and layout.root.resolve().name.isdigit():
        return int(layout.root.resolve().name)
    return step


def _as_record(preset: Preset, layout: Layout) -> Record:
    """What a preset says. Of another checkpoint than its own, statistics under its asset id need not be there."""
    shared = {field.name for field in dataclasses.fields(Record)} & {field.name for field in dataclasses.fields(Preset)}
    record = Record(**{field: getattr(preset, field) for field in shared})
    return record if record.asset_id in layout.assets else dataclasses.replace(record, asset_id=None)
