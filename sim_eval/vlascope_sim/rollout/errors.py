"""What stops a rollout, as one line for people. Knows nothing of what raises it."""

from __future__ import annotations


class RolloutError(ValueError):
    """A campaign that cannot run as it is written, or results that are not its own; the message is one line."""
