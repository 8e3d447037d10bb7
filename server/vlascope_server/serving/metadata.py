"""What a server says of itself when a client connects."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

from vlascope_client.protocol import PROMPT_CHARACTERS, VERSION
from vlascope_latents import CapturePlan

from vlascope_server.policies.contract import Policy, denoise_steps
from vlascope_server.serving.options import Limits


def server_metadata(
    policy: Policy[Any], default: CapturePlan, run: str | None, limits: Limits, *, deterministic: bool
) -> dict[str, object]:
    """The first message of a connection; docs/protocol.md documents its fields."""
    facts, spec, layout = policy.facts, policy.facts.robot, policy.layout
    steps = denoise_steps(layout)
    return {
        "protocol": VERSION,
        "server": f"vlascope {importlib.metadata.version('vlascope-server')}",
        "checkpoint": facts.name,
        "model": facts.model,
        "fingerprint": policy.fingerprint,
        "robot": spec.name,
        "cameras": dict(spec.cameras),
        "image_size": facts.image_size,
        "state_dim": spec.state_dim,
        "action_dim": spec.action_dim,
        "action_horizon": facts.action_horizon,
        "gripper": spec.gripper,
        "denoise_steps": steps,
        "noise_shape": None if facts.noise_shape is None else list(facts.noise_shape),
        "default_prompt": facts.default_prompt,
        "deterministic": deterministic,
        "trained_on": dict(facts.trained_on),
        "capture": {
            "run": run,
            "experts": list(layout.names),
            "components": list(dict.fromkeys(c.name for expert in layout.experts for c in expert.components)),
            "layers": max(expert.depth for expert in layout.experts),
            "denoise_steps": steps,
            "spans": {expert.name: [dataclasses.asdict(span) for span in expert.spans] for expert in layout.experts},
            "layout": layout.to_map(),
            "default_spec": default.spec.to_map(),
            "frame_bytes": default.nbytes,
        },
        "limits": {
            "message_bytes": limits.max_message_bytes,
            "clients": limits.max_clients,
            "requests_in_flight": limits.max_in_flight,
            "episodes": limits.max_episodes,
            "prompt_characters": PROMPT_CHARACTERS,
        },
    }
