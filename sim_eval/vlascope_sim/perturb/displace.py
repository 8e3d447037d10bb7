"""Does a perturbation to an environment that has just been reset, and sees to it that everything stands again.

An object is free to go elsewhere where it stands on the floor or the table alone and carries nothing; what others are put
into (the basket) stays where it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from vlascope_sim.environment.libero import DUMMY_ACTION, SETTLE_STEPS
from vlascope_sim.perturb.perturbation import Perturbation, PerturbationError, PerturbationRecord
from vlascope_sim.perturb.placement import Place, Surroundings, clear, moved, shuffled
from vlascope_sim.perturb.scene import Scene

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment, SensorReadings

_LIFT = 0.003
_REACH = (0.32, 0.80)
_PLACEMENTS_DRAWN, _PLACEMENTS_SETTLED = 400, 10
_MOST_MOVED, _MOST_SUNK, _MOST_TILTED, _MOST_SPEED = 0.012, 0.006, math.radians(5), 0.03
"""By which a settled object may differ from where and how it was put: m, m, rad, m/s."""


def apply(environment: LiberoEnvironment, perturbation: Perturbation) -> PerturbationRecord:
    """Displaces the objects of a scene that has been reset and settled, and settles it again.

    Equal scenes and perturbations give equal scenes. The last observation is out of date then: take a step of
    `DUMMY_ACTION` for a new one, or use `reset_perturbed`.

    Raises:
        PerturbationError: the scene has no room, or no two objects that could change places.
    """
    scene = Scene(environment)
    free = _free_objects(scene)
    before = {name: _place(scene, name) for name in free}
    if perturbation.kind == "none":
        return PerturbationRecord(
            perturbation=perturbation,
            before=before,
            after=before,
            took_place_of={name: name for name in free},
            layouts=0,
        )
    where = f"task {environment.task.id} of {environment.task.suite}"
    if len(free) < 1 + perturbation.shuffles:
        raise PerturbationError(f"{where}: {len(free)} objects stand free; nothing to {perturbation.kind}")
    rng = np.random.default_rng(perturbation.seed)
    radii = {name: scene.radius(name) for name in free}
    around = _surroundings(scene, free)
    start, upright = scene.sim.get_state(), {name: scene.orientation(name) for name in scene.objects}
    heights = {name: scene.position(name)[2] for name in scene.objects}
    for tried in range(1, _PLACEMENTS_SETTLED + 1):
        drawn = _draw(before, radii, around, perturbation, rng)
        if drawn is None:
            break
        took, places = drawn
        wanted = {name: places.get(name) or _place(scene, name) for name in scene.objects}
        for name, place in places.items():
            scene.put(name, place, _LIFT)
        scene.sim.forward()
        for _ in range(SETTLE_STEPS):
            environment.step(np.array(DUMMY_ACTION), render=False)
        if _stands(scene, wanted, heights, upright):
            after = {name: _place(scene, name) for name in free}
            return PerturbationRecord(
                perturbation=perturbation, before=before, after=after, took_place_of=took, layouts=tried
            )
        scene.sim.set_state(start)
        scene.sim.forward()
    raise PerturbationError(f"{where}: no room found to {perturbation.kind} {len(free)} objects; use another seed")


def reset_perturbed(
    environment: LiberoEnvironment,
    init_state_index: int,
    seed: int,
    perturbation: Perturbation,
    *,
    settle_steps: int = SETTLE_STEPS,
    render: bool = True,
) -> tuple[SensorReadings, PerturbationRecord]:
    """`environment.reset`, then the perturbation, then readings: the episode starts from there.

    With kind `none` it is the reset alone.

    Raises:
        SimulationError: no such initial state.
        PerturbationError: the scene has no room.
    """
    none = perturbation.kind == "none"
    seen = environment.reset(init_state_index, seed, settle_steps=settle_steps, render=render and none)
    record = apply(environment, perturbation)
    if not none:
        seen, _ = environment.step(np.array(DUMMY_ACTION), render=render)
        environment.mark_start()
    return seen, record


def _free_objects(scene: Scene) -> list[str]:
    touched = scene.touching()
    carriers = {scene.holder(region) for region in scene.domain.object_sites_dict}
    return [name for name in scene.objects if touched[name] == {""} and name not in carriers]


def _surroundings(scene: Scene, free: list[str]) -> Surroundings:
    stay = [name for name in (*scene.objects, *scene.fixtures) if name not in free]
    extents = [scene.extent(name) for name in stay]
    boxes = tuple(((float(a[0]), float(a[1])), (float(b[0]), float(b[1]))) for a, b in extents)
    x, y = scene.robot_base[:2]
    return Surroundings(boxes, base=(float(x), float(y)), reach=_REACH)


def _draw(
    before: dict[str, Place],
    radii: dict[str, float],
    around: Surroundings,
    perturbation: Perturbation,
    rng: np.random.Generator,
) -> tuple[dict[str, str], dict[str, Place]] | None:
    """Who takes whose place, and where everything goes; None where nothing was found."""
    for _ in range(_PLACEMENTS_DRAWN):
        took = shuffled(list(before), rng) if perturbation.shuffles else {name: name for name in before}
        places = {name: before[other] for name, other in took.items()}
        if perturbation.moves:
            found = moved(places, radii, perturbation.move_cm / 100, around, rng)
            if found is not None:
                return took, found
        elif clear(places, radii, around):
            return took, places
    return None


def _stands(
    scene: Scene, wanted: dict[str, Place], heights: dict[str, float], upright: dict[str, np.ndarray]
) -> bool:  # fmt: skip
    if scene.speed() > _MOST_SPEED:
        return False
    for name in scene.objects:
        shifted = np.linalg.norm(np.subtract(_place(scene, name), wanted[name]))
        sunk = abs(scene.position(name)[2] - heights[name])
        turned = 2 * math.acos(min(1.0, abs(float(scene.orientation(name) @ upright[name]))))
        if shifted > _MOST_MOVED or sunk > _MOST_SUNK or turned > _MOST_TILTED:
            return False
    return True


def _place(scene: Scene, name: str) -> Place:
    x, y = scene.position(name)[:2]
    return float(x), float(y)
