"""How an object is grasped, and how high the gripper must go to pass what is in its way.

The Panda's fingers open along y to 8 cm; its hand is 20 cm wide that way, and begins 3.4 cm above the point between the
fingertips.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vlascope_sim.perturb.scene import Scene

_WIDEST = 0.076
"""What still fits between the fingers, m."""
_PALM = 0.034
_FINGERTIP = 0.014
"""Of the point between the fingertips above the floor, where the fingers do not touch it."""
_RIM_WALL, _RIM_DEPTH = 0.0075, 0.014
"""Of the point between the fingertips, inwards from the outermost point of a rim and down from its top, m."""
_ABOVE, _ABOVE_RIM, _LOWEST = 0.06, 0.09, 0.16
"""Where the gripper comes down from: above an object's top, above a rim, and at least above what it stands on, m."""
_ROOM_WANTED, _ROOM_ENOUGH = 0.060, 0.045
"""Beyond a rim, for the outer finger; and what is no reason to prefer the other side, m."""
_MOST_INWARDS = 0.022
"""By which the gripper may close off the rim's middle: the outer finger draws the rim in, m."""
_HAND_X, _HAND_BEYOND = 0.02, 0.045
"""Half the hand's thickness along x; how much farther it reaches along y than an open finger, m."""
_PASSING = 0.06
"""Half the width of the way that the hand and what it holds need, m."""


@dataclasses.dataclass(frozen=True)
class Grasp:
    """Where the gripper closes.

    Attributes:
        offset: from the object's origin, x and y, m.
        height: of the point between the fingertips, m.
        above: height from which it comes down, m.
    """

    offset: np.ndarray
    height: float
    above: float


def choose_grasp(scene: Scene, target: str, holder: str, attempt: int) -> Grasp:
    """Round the middle where the object is narrow enough, else by its rim at -y or +y.

    A policy has to see which side it will be: -y wherever there is room, which is nearly everywhere in the shipped scenes.
    The roomier side would turn on millimetres in those of libero_goal, and a policy trained on that aims between the two.

    Args:
        scene: as it is now.
        target: the object.
        holder: what it will be put into or onto; lower than a rim, so that fingers do not meet it.
        attempt: from 1; by the rim, every second pair of them takes the other side.
    """
    low, high = scene.extent(target)
    origin = scene.position(target)
    if high[1] - low[1] <= _WIDEST:
        middle = ((low + high) / 2 - origin)[:2]
        height = max(origin[2], high[2] - _PALM, low[2] + _FINGERTIP)
        return Grasp(middle, float(height), float(max(high[2] + _ABOVE, low[2] + _LOWEST)))
    x = float((low + high)[0] / 2 - origin[0])
    rim = float(high[1] - origin[1]) - _RIM_WALL
    height = float(high[2] - _RIM_DEPTH)
    but = (target, holder)
    rooms = {side: _room(scene, origin[:2] + np.array([x, side * rim]), side, height, but) for side in (-1, 1)}
    sides = sorted(rooms, key=lambda side: (-min(_ROOM_ENOUGH, rooms[side]), side))
    side = sides[(attempt - 1) // 2 % 2]
    inwards = float(np.clip(_ROOM_WANTED - rooms[side], 0, _MOST_INWARDS))
    return Grasp(np.array([x, side * (rim - inwards)]), height, float(high[2] + _ABOVE_RIM))


def clear_height(scene: Scene, start: np.ndarray, end: np.ndarray, target: str, *, margin: float) -> float:
    """The height at which the way from `start` to `end` (x and y) passes everything but `target` by `margin`, m."""
    names = [name for name in (*scene.objects, *scene.fixtures) if name != target]
    boxes = [scene.boxes(name) for name in names]
    low, high = np.concatenate([box[0] for box in boxes]), np.concatenate([box[1] for box in boxes])
    way = np.linspace(start, end, 30)[:, None]
    gaps = np.linalg.norm(way - np.clip(way, low[:, :2], high[:, :2]), axis=-1).min(0)
    tops = high[gaps < _PASSING, 2]
    floor = float(scene.extent(target)[0][2])
    return float(max(tops, default=floor)) + margin


def _room(scene: Scene, rim: np.ndarray, side: int, height: float, but: tuple[str, ...]) -> float:
    """Along y, from a rim (x and y) outwards to the nearest thing that the outer finger would meet, m.

    What is as high as the palm is met by the hand, which reaches farther out than the finger by `_HAND_BEYOND`.
    """
    room = 1.0
    for name in (*scene.objects, *scene.fixtures):
        if name in but:
            continue
        low, high = scene.boxes(name)
        met = (high[:, 2] > height - _FINGERTIP) & (low[:, 0] < rim[0] + _HAND_X) & (high[:, 0] > rim[0] - _HAND_X)
        near = (low[:, 1] if side > 0 else -high[:, 1]) - side * rim[1]
        beyond = (high[:, 1] if side > 0 else -low[:, 1]) > side * rim[1]
        near = near - np.where(high[:, 2] > height + _PALM, _HAND_BEYOND, 0)
        room = min([room, *near[met & beyond]])
    return room
