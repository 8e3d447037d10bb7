"""Policies: a checkpoint, a robot and a tokenizer as one thing that turns observations into actions.

Knows nothing of who asks or of where latents go.
"""

from vlascope_server.policies.compile_queue import Asker, TooManyJobsError
from vlascope_server.policies.policy import Policy, PolicyOptions, PreparedObservation, draw_noise
from vlascope_server.policies.programs import Program, Programs, ProgramsClosedError

__all__ = [
    "Asker",
    "Policy",
    "PolicyOptions",
    "PreparedObservation",
    "Program",
    "Programs",
    "ProgramsClosedError",
    "TooManyJobsError",
    "draw_noise",
]
