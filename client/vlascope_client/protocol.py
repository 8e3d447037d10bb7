"""Names that both ends of the wire use. docs/protocol.md says what they mean; knows nothing of sockets."""

from __future__ import annotations

from typing import Literal

VERSION = 1
"""Of the protocol; a server says its own in its metadata."""

PROMPT_CHARACTERS = 4096
"""The longest instruction that a server takes."""

OWN_FIELDS = ("collect_latents", "episode", "annotations", "timestep", "noise", "seed", "return_latents")
"""Keys of an observation that are not the robot's."""

ErrorCode = Literal[
    "bad_message",
    "message_too_large",
    "unknown_request",
    "invalid_field",
    "invalid_observation",
    "invalid_spec",
    "spec_changed",
    "unknown_episode",
    "episode_in_use",
    "no_store",
    "store_failed",
    "overloaded",
    "shutting_down",
    "internal",
]
"""`code` of an error reply."""
