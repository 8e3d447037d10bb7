"""What demonstrations are asked for: the options of `vlascope-sim demonstrate`, which planning and making run on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from vlascope_base.options import Numbers, NumbersOrAll

from vlascope_sim.environment.cameras import RenderMode
from vlascope_sim.environment.goals import DemonstratedSuite, Targets
from vlascope_sim.perturb import Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Which demonstrations there are to be."""

    suite: DemonstratedSuite = "libero_object"
    """Suite of tasks."""
    tasks: NumbersOrAll = None
    """Tasks of the suite, such as 0-9 (inclusive) or 0,3,5; all unless given. Opening, pushing and turning is passed over."""
    episodes: Numbers = tuple(range(10))
    """Episodes of each goal, the same way; episode k starts from initial state k modulo their number."""
    targets: Targets = "told"
    """The task's own goal, or every object of its scene (and in libero_goal every place) in turn, with its own instruction; an
    episode's scene is the same for all of them."""
    perturb: Kind = "none"
    """Move objects, let them change places, or both."""
    move_cm: float = 5.0
    """How far objects are moved at most."""
    noise: bool = False
    """Put noise on what is done: each episode draws a sigma and pushes. Labels stay the expert's."""
    noise_sigmas: tuple[float, ...] = (0.0, 0.1, 0.25)
    """With noise: standard deviations to draw from, in units of the command (1 is 5 cm)."""
    noise_bursts: int = 3
    """With noise: most pushes of 3 to 8 steps in an episode."""
    max_steps: int | None = None
    """Steps of a demonstration at most; the suite's limit unless given. With --keep-failures the starts of all are kept, where
    it is decided what is reached for: more scenes in the same time."""
    seed: int = 7
    """The seed from which every other seed follows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemonstrationOptions(PlanOptions):
    """How they are made, and what is kept of them."""

    output: Path
    """New folder for the dataset; with `resume`, one to add to."""
    image_size: int = 128
    """Pixels a side of an image."""
    render: RenderMode = "fast"
    """`full` draws what robosuite draws; `fast` is four times sooner."""
    dataset_version: Literal["v2.1", "v3.0"] = "v2.1"
    """LeRobot's format; openpi reads v2.1. With `resume`, that of the dataset."""
    keep_failures: bool = False
    """Put failed demonstrations into the dataset too. With `resume`, those that were left out before are made again."""
    record: bool = True
    """Without, nothing is drawn and no dataset is made: only the success rates, in half the time."""
    workers: int = 1
    """Processes that simulate."""
    assets: Path | None = None
    """Folder of LIBERO's assets; what is found unless given."""
    resume: bool = False
    """Add to the output what is missing in it of what is asked for."""
    dry_run: bool = False
    """Check everything, say what it takes, and stop."""
