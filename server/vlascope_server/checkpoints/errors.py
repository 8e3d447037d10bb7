"""The error of this folder, whose message has two spellings: for Python and for the command line."""

from __future__ import annotations

import re

from vlascope_base import VlascopeError

_ARGUMENT = re.compile(r"<([a-z_]+)>")


class CheckpointError(VlascopeError):
    """A checkpoint that cannot be used; one line: the path, what was expected, what was found, what to do.

    Args:
        what: the first three of these.
        do: what the reader can do. `<action_horizon>` stands for an argument of that name: the message of the exception spells
            it as Python does, `for_command` as an option of the command line.
    """

    def __init__(self, what: str, do: str = ""):
        super().__init__(_joined(what, do, r"\1="))
        self.what, self.do = what, do

    def for_command(self) -> str:
        """The message for somebody who reads it in a terminal."""
        return _joined(self.what, _ARGUMENT.sub(lambda match: f"--{match[1].replace('_', '-')}", self.do), "")


def _joined(what: str, do: str, argument: str) -> str:
    return f"{what}; {_ARGUMENT.sub(argument, do)}" if do else what
