"""The errors that a command prints as one line instead of a traceback."""

from __future__ import annotations


class VlascopeError(ValueError):
    """What was asked for cannot be done.

    The message is one line for the person who asked: what was wrong, which value, what was allowed, what to do. Each member
    derives its own errors from this class, so that its callers can tell them apart.
    """

    def for_command(self) -> str:
        """The message as a command prints it; a class whose remedy is an option spells it as one here."""
        return str(self)


class OptionError(VlascopeError):
    """The text of an option cannot be read; the message names the option where the caller knows it."""
