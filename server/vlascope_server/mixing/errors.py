"""The error of this folder."""

from __future__ import annotations

from vlascope_base import VlascopeError


class MixingError(VlascopeError):
    """Checkpoints, validation data or options that do not fit; one line: what was wrong, what was allowed, what to do."""
