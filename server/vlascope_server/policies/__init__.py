"""Policies: a checkpoint, a robot and a tokenizer as one thing that turns observations into actions.

Knows nothing of who asks or of where latents go.
"""

from vlascope_server.policies.policy import Policy, PolicyOptions, PreparedObservation, draw_noise
from vlascope_server.policies.programs import Program, Programs

__all__ = ["Policy", "PolicyOptions", "PreparedObservation", "Program", "Programs", "draw_noise"]
