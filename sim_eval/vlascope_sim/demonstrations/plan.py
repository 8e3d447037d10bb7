"""Which demonstrations are to be made, each with the seeds that decide it."""

from __future__ import annotations

import dataclasses

from vlascope_base.seeds import derive_seed

from vlascope_sim.demonstrations.noise import NO_NOISE, NoiseOptions
from vlascope_sim.demonstrations.options import PlanOptions
from vlascope_sim.environment.goals import Goal, goals_of
from vlascope_sim.environment.tasks import load_task, suite_tasks
from vlascope_sim.errors import SimulationError
from vlascope_sim.perturb import Perturbation
from vlascope_sim.seeds import environment_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One demonstration to make. Equal values, assets and versions give equal demonstrations.

    Attributes:
        suite, task, init_state: the scene.
        goal: what is to be done in it.
        episode: its number; `init_state` is this modulo the number of those.
        environment_seed: of the fixtures' places.
        perturbation: of the objects.
        noise, noise_seed: on the actions.
        max_steps: where it ends, done or not; None for the suite's limit.
        seed: that the others were derived from.
    """

    suite: str
    task: int
    init_state: int
    goal: Goal
    episode: int
    environment_seed: int
    perturbation: Perturbation
    noise: NoiseOptions
    noise_seed: int
    max_steps: int | None = None
    seed: int

    @property
    def id(self) -> str:
        """What tells it from any other, in words that a file can hold."""
        shift = self.perturbation.kind + (f"{self.perturbation.move_cm:g}" if self.perturbation.moves else "")
        noisy = "" if self.noise == NO_NOISE else f".noise{derive_seed(repr(self.noise), bits=16)}"
        goal = f"{self.goal.target}.{self.goal.place}"
        start = "" if self.max_steps is None else f".first{self.max_steps}"
        return f"{self.suite}.task{self.task}.{goal}.episode{self.episode}.{shift}{noisy}{start}.seed{self.seed}"


def plan(options: PlanOptions) -> tuple[Demonstration, ...]:
    """All demonstrations that are asked for of the tasks that have goals for the expert, task by task.

    An episode's scene is the same for every goal: nothing but the instruction tells them apart.

    Raises:
        SimulationError: a suite, task, noise or perturbation that does not exist, or nothing to demonstrate.
    """
    suite, perturb, seed = options.suite, options.perturb, options.seed
    if suite == "libero_spatial" and perturb in ("shuffle", "both"):
        raise SimulationError(
            f"perturb {perturb!r}: libero_spatial tells its bowls apart by where they stand; use none or move"
        )
    if options.max_steps is not None and options.max_steps < 1:
        raise SimulationError(f"max_steps {options.max_steps}: expected at least 1")
    tasks = tuple(range(len(suite_tasks(suite)))) if options.tasks is None else options.tasks
    move_cm = options.move_cm if perturb in ("move", "both") else 0.0
    noise, found = _noise(options), []
    for number in tasks:
        task = load_task(suite, number)
        for goal in goals_of(task, options.targets):
            for episode in options.episodes:
                parts = (seed, suite, number, goal.target, goal.place, episode)
                drawn = 0 if perturb == "none" else derive_seed("scene", seed, suite, number, episode, bits=32)
                found.append(
                    Demonstration(
                        suite=suite,
                        task=number,
                        init_state=episode % task.init_state_count,
                        goal=goal,
                        episode=episode,
                        environment_seed=environment_seed(seed, suite, number, episode),
                        perturbation=Perturbation(kind=perturb, move_cm=move_cm, seed=drawn),
                        noise=noise,
                        noise_seed=derive_seed("expert noise", *parts, bits=32),
                        max_steps=options.max_steps,
                        seed=seed,
                    )
                )
    if not found:
        raise SimulationError(f"tasks {', '.join(map(str, tasks))} of {suite}: none is of picking up and placing")
    return tuple(found)


def _noise(options: PlanOptions) -> NoiseOptions:
    if options.noise_bursts < 0:
        raise SimulationError(f"noise_bursts {options.noise_bursts}: expected at least 0")
    if not options.noise_sigmas or not all(sigma >= 0 for sigma in options.noise_sigmas):
        raise SimulationError(f"noise_sigmas {options.noise_sigmas}: expected one or more, each at least 0")
    return NoiseOptions(options.noise_sigmas, options.noise_bursts) if options.noise else NO_NOISE
