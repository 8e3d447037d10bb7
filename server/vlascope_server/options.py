"""Options that several commands share."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What a person says of a checkpoint, where its own files leave it open."""

    preset: str | None = None
    """Name of a preset, which fills in what the checkpoint's own files do not say."""
    asset_id: str | None = None
    """Which of the checkpoint's statistics, where it has several: the folder below assets/, `beside` for those beside the
    parameters, `lerobot` for those in LeRobot's own files."""
    action_horizon: int | None = None
    """Actions in one chunk; the checkpoint's unless given."""
    max_token_len: int | None = None
    """Text tokens of a prompt, padding included; the checkpoint's unless given."""
