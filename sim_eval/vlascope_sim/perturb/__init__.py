"""Scenes with their objects moved or shuffled, the same way each time."""

from vlascope_sim.perturb.displace import apply, reset_perturbed
from vlascope_sim.perturb.perturbation import KINDS, Kind, Perturbation, PerturbationError, PerturbationRecord

__all__ = [
    "KINDS",
    "Kind",
    "Perturbation",
    "PerturbationError",
    "PerturbationRecord",
    "apply",
    "reset_perturbed",
]
