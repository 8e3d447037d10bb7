"""The errors of this member; the command prints each as one line."""

from __future__ import annotations

from vlascope_base import VlascopeError


class SimulationError(VlascopeError):
    """A suite, task, initial state or asset that does not exist, or a simulator that cannot run."""


class RolloutError(VlascopeError):
    """A campaign that cannot run as it is written, or results that are not its own."""
