"""What a run of the latent store says of the policy that it is of, whoever captures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlascope_base.provenance import provenance

from vlascope_server.policies.contract import Policy, denoise_steps

_PACKAGES = ("vlascope-server", "vlascope-latents", "numpy")


def describe_run(policy: Policy[Any], options: Mapping[str, Any], noise_seed: int | None) -> dict[str, Any]:
    """What `run.json` keeps as `model`: JSON.

    Args:
        policy: that is captured.
        options: of the command that captures, as `record_of` gives them.
        noise_seed: from which the seeds of what is drawn follow; None where nothing is drawn, or they follow from none.
    """
    facts = policy.facts
    return {
        **_plain(facts.record),
        "checkpoint": facts.source,
        "fingerprint": policy.fingerprint,
        "robot": facts.robot.name,
        "denoise_steps": denoise_steps(policy.layout),
        "noise_seed": noise_seed,
        "options": _plain(options),
        **provenance(*_PACKAGES, *facts.packages),
    }


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
