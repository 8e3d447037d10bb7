"""What goes wrong before a simulation runs, as one line for people. Knows nothing of what raises it."""

from __future__ import annotations


class SimulationError(ValueError):
    """A suite, task, initial state or asset that does not exist, or a simulator that cannot run; the message is one line."""
