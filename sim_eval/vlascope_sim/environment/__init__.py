"""LIBERO tasks and environments. Knows nothing of policies or rollouts."""

from vlascope_sim.environment.cameras import RenderMode
from vlascope_sim.environment.errors import SimulationError
from vlascope_sim.environment.libero import DUMMY_ACTION, SETTLE_STEPS, LiberoEnvironment, Observation
from vlascope_sim.environment.tasks import STEP_LIMITS, Task, load_task, suite_tasks

__all__ = [
    "DUMMY_ACTION",
    "SETTLE_STEPS",
    "STEP_LIMITS",
    "LiberoEnvironment",
    "Observation",
    "RenderMode",
    "SimulationError",
    "Task",
    "load_task",
    "suite_tasks",
]
