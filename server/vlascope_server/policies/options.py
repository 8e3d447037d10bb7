"""What a person decides about a policy, beyond its checkpoint. Imports no JAX: a command's help reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from vlascope_server.options import CheckpointOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptions(CheckpointOptions):
    """How a checkpoint becomes a policy, where its own files leave a choice."""

    robot: str | None = None
    """Whose observations these are: libero, droid or aloha; the checkpoint says so where it knows."""
    num_steps: int = 10
    """Denoise steps from noise to actions."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of parameters and activations; auto is bfloat16 on an accelerator and float32 on a CPU."""
    default_prompt: str | None = None
    """The instruction for observations without one."""
    tokenizer: Path | None = None
    """A SentencePiece model; the checkpoint's own unless told."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhichPolicy:
    """A policy as a command is told of it; `loading.load_policy` loads it."""

    checkpoint: str = "tiny"
    """A step folder, its params/, a safetensors file, a URL, or a preset's name; or drawn:SEED with --like."""
    policy: OmitArgPrefixes[PolicyOptions] = dataclasses.field(default_factory=PolicyOptions)
