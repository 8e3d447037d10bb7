"""Options that several commands share. Importing them does not import JAX."""

from __future__ import annotations

import dataclasses

COMPONENTS = ("vision", "vlm", "action expert", "projections")
"""The parts of a model that its parameters belong to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetOptions:
    """What is known of a published checkpoint, for one whose own files do not say it."""

    preset: str | None = None
    """Name of a preset, which fills in what the checkpoint's own files do not say."""


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
