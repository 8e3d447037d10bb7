"""Which object was lifted first in an episode. Knows nothing of who lifts it, or of what was asked."""

from __future__ import annotations

from typing import Any

import numpy as np

LIFTED = 0.05
"""Metres above where it stood at the episode's start."""


class LiftWatch:
    """Follows the heights of all movable objects from the moment that it is made.

    Attributes:
        first: the first object that rose by `LIFTED`; None as long as none did. Of several in one step, the one that rose most.
    """

    def __init__(self, domain: Any):
        self.first: str | None = None
        self._data = domain.sim.data
        self._names = tuple(domain.objects_dict)
        self._bodies = np.array([domain.obj_body_id[name] for name in self._names], int)
        self._start = self._heights()

    def look(self) -> None:
        """Takes the present moment into account."""
        if self.first is None and self._names:
            rise = self._heights() - self._start
            highest = int(rise.argmax())
            if rise[highest] >= LIFTED:
                self.first = self._names[highest]

    def _heights(self) -> np.ndarray:
        return np.array(self._data.body_xpos[self._bodies, 2])
