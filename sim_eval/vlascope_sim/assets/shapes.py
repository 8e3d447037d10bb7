"""Shapes that several objects are made of: bowls, walls, boxes.

All in world axes, standing on z = 0 unless `at` says otherwise, metres. The open gripper spans y.
"""

from __future__ import annotations

import dataclasses
import math

from vlascope_sim.assets.mjcf import Part, Vector, about, multiply

SKIN = 0.0007
"""How far a drawn label stands off the surface it is on."""


def ring(sides: int, low: float, high: float, z: tuple[float, float], thick: float, color: str) -> list[Part]:
    """A round wall of slabs, from radius `low` at the first height to radius `high` at the second."""
    rise = z[1] - z[0]
    tilt = math.degrees(math.atan2(high - low, rise))
    radius, length = (low + high) / 2, math.hypot(high - low, rise)
    size = (thick / 2, max(low, high) * math.tan(math.pi / sides), length / 2)
    parts = []
    for side in range(sides):
        angle = 2 * math.pi * side / sides
        at = (radius * math.cos(angle), radius * math.sin(angle), (z[0] + z[1]) / 2)
        parts.append(Part("box", size, at, color, multiply(about("z", math.degrees(angle)), about("y", tilt))))
    return parts


def dish(base: float, rim: float, height: float, thick: float, color: str, sides: int = 12) -> list[Part]:
    """A bowl, plate or pan: a round floor of radius `base`, walls out to radius `rim`."""
    floor = Part("cylinder", (base + thick / 2, thick / 2), (0, 0, thick / 2), color)
    return [floor, *ring(sides, base, rim, (thick / 2, height), thick, color)]


def disc(radius: float, z: float, color: str) -> Part:
    """A drawn round patch."""
    return Part("cylinder", (radius, 0.0004), (0, 0, z), color, role="visual")


def crate(
    x: float, y: float, height: float, thick: float, color: str, edge: str, floor: str | None = None
) -> list[Part]:
    """A floor and four walls with a drawn edge; x, y, height are outer sizes."""
    parts = [Part("box", (x / 2, y / 2, thick / 2), (0, 0, thick / 2), floor or edge)]
    for sign in (1, -1):
        parts += _edged((thick / 2, y / 2, height / 2), (sign * (x - thick) / 2, 0, height / 2), color, edge)
        parts += _edged((x / 2 - thick, thick / 2, height / 2), (0, sign * (y - thick) / 2, height / 2), color, edge)
    return parts


def _edged(size: Vector, at: Vector, color: str, edge: str) -> list[Part]:
    top = (size[0] + SKIN, size[1] + SKIN, 0.005)
    return [
        Part("box", size, at, color),
        Part("box", top, (at[0], at[1], 2 * at[2] - 0.005 + SKIN), edge, role="visual"),
    ]


def raised(parts: list[Part], height: float) -> list[Part]:
    """The parts, higher by `height`."""
    return [dataclasses.replace(part, at=(part.at[0], part.at[1], part.at[2] + height)) for part in parts]
