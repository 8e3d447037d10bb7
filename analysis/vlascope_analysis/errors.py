"""The error of every analysis."""

from __future__ import annotations

from vlascope_base import VlascopeError


class AnalysisError(VlascopeError):
    """A request that the captured data cannot answer; the message says what was wrong, what there is, and what to do."""
