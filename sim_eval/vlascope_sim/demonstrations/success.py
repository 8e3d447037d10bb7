"""Whether a told goal came true, and which object was lifted first. Knows nothing of who acts."""

from __future__ import annotations

from vlascope_sim.demonstrations.goals import Goal
from vlascope_sim.perturb.scene import Scene

LIFTED = 0.05
"""Metres above where it stood."""


class Watch:
    """Follows one episode; make it after the reset, and call `look` after every step.

    Attributes:
        reached: the goal held at some step, by LIBERO's own predicate.
        lifted_first: the first object that was lifted by `LIFTED`; None as long as none was. In one step, the highest.
    """

    def __init__(self, scene: Scene, goal: Goal):
        self.reached = False
        self.lifted_first: str | None = None
        self._scene, self._goal = scene, goal
        self._start = {name: scene.position(name)[2] for name in scene.objects}

    def look(self) -> bool:
        """Takes this moment into account; whether the goal holds in it."""
        if self.lifted_first is None:
            rise = {name: self._scene.position(name)[2] - low for name, low in self._start.items()}
            highest = max(rise, key=lambda name: rise[name])
            self.lifted_first = highest if rise[highest] >= LIFTED else None
        holds = self._scene.holds(self._goal.condition)
        self.reached |= holds
        return holds
