"""An error of a subcommand whose own errors live in a package that need not be installed. Knows nothing of any one."""

from __future__ import annotations


class CommandError(ValueError):
    """What was asked for cannot be done; the message is one line, and the command ends with 2."""
