"""What a person decides about a policy, beyond its checkpoint. Imports no JAX: a command's help reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

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
