"""Robots: what each observes and how it acts, on the model's scale and back."""

from vlascope_server.robots.aloha import Aloha
from vlascope_server.robots.contract import (
    Conventions,
    Normalisation,
    Reading,
    RobotInputError,
    RobotIO,
    RobotSpec,
    bool_mask,
)
from vlascope_server.robots.droid import Droid
from vlascope_server.robots.libero import Libero
from vlascope_server.robots.norm_stats import NormStats, NormStatsError, RunningStats, load_norm_stats, save_norm_stats
from vlascope_server.robots.pipeline import NormalisedReading, RobotPipeline

ROBOTS: dict[str, RobotIO] = {"libero": Libero(), "aloha": Aloha(), "droid": Droid()}
"""Name -> robot as the reference's checkpoints know it; `vlascope.json` names one of these."""

__all__ = [
    "ROBOTS",
    "Aloha",
    "Conventions",
    "Droid",
    "Libero",
    "NormStats",
    "NormStatsError",
    "Normalisation",
    "NormalisedReading",
    "Reading",
    "RobotIO",
    "RobotInputError",
    "RobotPipeline",
    "RobotSpec",
    "RunningStats",
    "bool_mask",
    "load_norm_stats",
    "save_norm_stats",
]
