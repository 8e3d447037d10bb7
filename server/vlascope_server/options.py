"""Options that several commands share. Importing them does not import JAX."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Literal

from tyro.constructors import PrimitiveConstructorSpec
from vlascope_base import OptionError
from vlascope_base.maps import each_once
from vlascope_base.options import Bytes, NumbersOrAll
from vlascope_base.text import short
from vlascope_latents import CaptureSpec, CaptureSpecError

COMPONENTS = ("vision", "vlm", "action expert", "projections")
"""The parts of a model that its parameters belong to."""


class CaptureOptionError(OptionError):
    """A capture spec that cannot be read."""

    def for_command(self) -> str:
        """The message behind the option's name, which a file of options says itself."""
        return f"--capture: {self}"


def _read_spec(words: list[str]) -> CaptureSpec:
    right = 'expected JSON such as \'{"layers": [5], "spans": ["text"]}\''
    try:
        return CaptureSpec.from_map(json.loads(words[0], object_pairs_hook=each_once))
    except CaptureSpecError as error:
        raise CaptureOptionError(f"{error.message}; {right}") from None
    except OptionError as error:
        raise CaptureOptionError(f"{error}; {right}") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise CaptureOptionError(f"{right}, found {short(words[0])} ({why})") from None


Capture = Annotated[
    CaptureSpec | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_read_spec,
        is_instance=lambda value: value is None or isinstance(value, CaptureSpec),
        str_from_instance=lambda spec: ["None" if spec is None else json.dumps(spec.to_map())],
    ),
]
"""A capture spec, written as JSON, or None; `… | None` beside the annotation would give an unreadable error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetOptions:
    """What is known of a published checkpoint, for one whose own files do not say it."""

    preset: str | None = None
    """Name of a preset, which fills in what the checkpoint's own files do not say."""
    like: str | None = None
    """For the checkpoint drawn:SEED, whose weights are drawn from a seed: the checkpoint that everything else is taken from,
    such as architecture, tokenizer, robot and statistics."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceOptions:
    """How two checkpoints are compared."""

    merge_lora: bool = False
    """Compare effective weights: the product of LoRA adapters is added to the weight that they change."""
    common_only: bool = False
    """Compare checkpoints of different architectures: the parameters that both have, in the same shape."""
    spectral: bool = False
    """Also compute the spectral norm and the effective rank of the difference, of every matrix; takes longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(PresetOptions):
    """What a person says of a checkpoint, where its own files leave it open."""

    asset_id: str | None = None
    """Which statistics, where the checkpoint has several: a folder below assets/, `beside` the parameters, or `lerobot`."""
    action_horizon: int | None = None
    """Actions in one chunk; the checkpoint's unless given."""
    max_token_len: int | None = None
    """Text tokens of a prompt, padding included; the checkpoint's unless given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How a run of the latent store is written."""

    readable_by: Literal["owner", "group", "everyone"] = "owner"
    """Who may read the run, and the folder of runs where it is made: its owner alone, its group, or everyone."""
    queue_bytes: Bytes = 10**9
    """Memory for frames on their way to disk."""
    min_free: Bytes = 10**9
    """Captures are refused while the store's disk has less free."""
    writers: int = 4
    """Threads that write frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """Which recorded episodes are read, and how those of a LeRobot dataset."""

    episodes: NumbersOrAll = None
    """Numbers of the episodes to use, such as 0-9 (inclusive) or 0,3,5."""
    tasks: tuple[str, ...] | None = None
    """Instructions: only episodes of these are used; all unless given."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Pairs of the robot's observation key (or `actions`) and the dataset's column, where the usual names do not fit."""
    tolerance_s: float = 1e-4
    """Seconds that a video's frame may be off its row's timestamp; LeRobot's option of that name."""
