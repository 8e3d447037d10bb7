"""From the name of a checkpoint to a policy: the one place that knows which kinds of policies there are."""

from __future__ import annotations

from typing import Any

from vlascope_server.compile_cache import use_compilation_cache
from vlascope_server.policies.contract import Policy
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.policy import Pi0Policy

_USUAL = PolicyOptions()


def load_policy(location: str, options: PolicyOptions = _USUAL) -> Policy[Any]:
    """Loads a checkpoint (a path, a URL or a preset's name) as a policy, whose compiled programs are kept on disk.

    Raises:
        CheckpointError: it cannot be loaded, or does not fit the options.
    """
    use_compilation_cache()
    return Pi0Policy.load(location, options)
