"""Demonstrations by a scripted expert, for tasks that pick something up and put it somewhere.

Knows nothing of policies or policy servers.
"""

from vlascope_sim.demonstrations.expert import Expert
from vlascope_sim.demonstrations.goals import Goal, goals_of

__all__ = ["Expert", "Goal", "goals_of"]
