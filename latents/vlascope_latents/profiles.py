"""Capture specs with a name, for what is captured most often. What each of them costs on a model, `plan_capture` says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Profile:
    """A spec's flat fields by name.

    Attributes:
        about: what it is for, in one line.
        fields: of the flat form; whoever names the profile may give others beside it, but no components.
        needs: fields that have to be given, because their default would fill a disk.
    """

    about: str
    fields: Mapping[str, Any]
    needs: tuple[str, ...] = ()


PROFILES: Mapping[str, Profile] = {
    "probe": Profile(
        "the residual stream of every expert, mean over spans: what linear probes read",
        {"components": ("hidden_states",), "spans": ("image", "text", "action"), "reduction": "mean"},
    ),
    "full": Profile(
        "the residual stream of every expert, every token: the default", {"components": ("hidden_states",)}
    ),
    "causal": Profile(
        "the stream, what each branch adds to it, keys and values, of the text and action tokens: what patching compares",
        {"components": ("hidden_states", "attn_output", "mlp_output", "k", "v"), "spans": ("text", "action")},
    ),
    "attention": Profile(
        "by head, how much attention each span gives to each other one",
        {"components": ("attention",), "dtype": "float32"},
    ),
    "audit": Profile("everything that there is, of the layers that are named", {"components": "all"}, ("layers",)),
}
"""Names that a capture spec may give as `profile`."""
