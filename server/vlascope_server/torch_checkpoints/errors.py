"""The errors of this folder: one line each."""

from __future__ import annotations

from vlascope_base import VlascopeError


class TorchCheckpointError(VlascopeError):
    """A PyTorch checkpoint that cannot be read: the path, what was expected, what was found, what to do."""


class RefusedPickleError(TorchCheckpointError):
    """A checkpoint whose pickle would call what no checkpoint needs; the message names it."""
