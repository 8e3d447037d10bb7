"""A named policy: where its parameters come from and what they cannot tell."""

from __future__ import annotations

import dataclasses

from vlascope_server.robots.contract import Normalisation


@dataclasses.dataclass(frozen=True)
class Preset:
    """What loading a checkpoint needs besides its parameters.

    Attributes:
        name: how a user asks for it.
        pi05: Pi0.5 rather than Pi0.
        location: of the checkpoint; a local path or a URL.
        robot: whose observations and actions these are; None where it was trained on many.
        action_horizon: actions in one chunk.
        max_token_len: text tokens, padding included.
        cameras: image slots that the robot fills, in the model's order.
        asset_id: which of the folders below the checkpoint's `assets/` holds the statistics; None where it is a choice.
        normalisation: of state and actions.
        state_in_prompt: pi0.5 with the state as text in the prompt, or without; None for pi0, where it is a token.
        delta_actions: joint actions are relative to the state at the chunk's start; None where the robot is a choice.
    """

    name: str
    pi05: bool
    location: str
    robot: str | None
    action_horizon: int
    max_token_len: int
    cameras: tuple[str, ...]
    asset_id: str | None
    normalisation: Normalisation
    state_in_prompt: bool | None = None
    delta_actions: bool | None = None
