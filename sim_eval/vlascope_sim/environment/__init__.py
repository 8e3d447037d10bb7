"""LIBERO's tasks, what can be asked for in their scenes, and their environments; no policy and no rollout."""

from vlascope_sim.environment.cameras import RenderMode
from vlascope_sim.environment.libero import DUMMY_ACTION, SETTLE_STEPS, LiberoEnvironment, SensorReadings
from vlascope_sim.environment.tasks import STEP_LIMITS, Suite, Task, load_task, suite_tasks

__all__ = [
    "DUMMY_ACTION",
    "SETTLE_STEPS",
    "STEP_LIMITS",
    "LiberoEnvironment",
    "RenderMode",
    "SensorReadings",
    "Suite",
    "Task",
    "load_task",
    "suite_tasks",
]
