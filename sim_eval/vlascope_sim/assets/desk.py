"""What a study holds: books, the caddy they go into, the shelf.

Compartments are named as the agent's camera sees them: front is nearest to it. The caddy stands turned by half a turn.
"""

from __future__ import annotations

from vlascope_sim.assets.mjcf import Model, Part, Quaternion, Region, single
from vlascope_sim.assets.shapes import SKIN, raised

_QUARTER_BACK: Quaternion = (0.5**0.5, 0, 0, -(0.5**0.5))
_ON_TABLE = -0.04


def _book(cover: str, title: str) -> list[Part]:
    """A book standing upright, its thickness across the gripper at the first of its initial rotations."""
    wide, thick, tall = 0.100, 0.034, 0.120
    middle = (0, 0, tall / 2)
    parts = [
        Part("box", (wide / 2, thick / 2, tall / 2), middle, cover),
        Part("box", (wide / 2 - 0.004, thick / 2 - 0.005, 0.001), (0.004, 0, tall), "#f2ead8", role="visual"),
        Part("box", (0.001, thick / 2 - 0.005, tall / 2 - 0.004), (wide / 2, 0, tall / 2), "#f2ead8", role="visual"),
        Part("box", (wide * 0.3, thick / 2 + SKIN, 0.010), (0, 0, tall * 0.68), title, role="visual"),
        Part("box", (wide * 0.2, thick / 2 + SKIN, 0.004), (0, 0, tall * 0.5), title, role="visual"),
    ]
    return raised(parts, -tall / 2)


def _caddy() -> tuple[list[Part], list[Region]]:
    """Two slots the whole width, at the front and at the back, and two halves between them."""
    wall, height, slot, middle, half = 0.005, 0.080, 0.060, 0.090, 0.118
    width = 2 * half + 3 * wall
    wood, dark = "#8a6239", "#6e4c2a"
    edges = [-(middle / 2 + wall + slot + wall / 2), -(middle + wall) / 2]
    edges += [-x for x in reversed(edges)]
    parts = [Part("box", (-edges[0] + wall / 2, width / 2, wall / 2), (0, 0, wall / 2), dark)]
    parts += [Part("box", (wall / 2, width / 2, height / 2), (x, 0, height / 2), wood) for x in edges]
    for y in (-(width - wall) / 2, (width - wall) / 2):
        parts.append(Part("box", (-edges[0] - wall / 2, wall / 2, height / 2), (0, y, height / 2), dark))
    parts.append(Part("box", (middle / 2, wall / 2, height / 2), (0, 0, height / 2), dark))
    x, y, z, tall = (middle + slot) / 2 + wall, (half + wall) / 2, 0.070, 0.064
    across, cell = (slot / 2 - 0.002, width / 2 - 0.010, tall), (middle / 2 - 0.002, half / 2 - 0.002, tall)
    return parts, [
        Region("front_contain_region", (-x, 0, z), across),
        Region("back_contain_region", (x, 0, z), across),
        Region("left_contain_region", (0, y, z), cell),
        Region("right_contain_region", (0, -y, z), cell),
    ]


def _shelf() -> tuple[list[Part], list[Region]]:
    """Two layers open towards -y; each layer's inside and the top are regions."""
    width, depth, room, thick = 0.330, 0.190, 0.145, 0.010
    color, back = "#9c6d3e", "#7d552e"
    height = 2 * room + 3 * thick
    boards = [thick / 2, room + 1.5 * thick, height - thick / 2]
    parts = [Part("box", (width / 2, depth / 2, thick / 2), (0, 0, z), color) for z in boards]
    for x in (-(width - thick) / 2, (width - thick) / 2):
        parts.append(Part("box", (thick / 2, depth / 2, height / 2 - thick), (x, 0, height / 2), color))
    parts.append(Part("box", (width / 2 - thick, 0.003, height / 2 - thick), (0, depth / 2 - 0.003, height / 2), back))
    inside = (width / 2 - thick - 0.004, depth / 2 - 0.006, room / 2)
    return parts, [
        Region("top_side", (0, 0, height), (width / 2 - 0.01, depth / 2 - 0.01, 0.0015)),
        Region("top_region", (0, 0, room * 1.5 + 2 * thick), inside),
        Region("bottom_region", (0, 0, room / 2 + thick), inside),
    ]


def desk() -> list[Model]:
    """The study's categories of LIBERO's `turbosquid_objects`."""
    folder = "turbosquid_objects"
    caddy, compartments = _caddy()
    shelf, layers = _shelf()
    return [
        single(folder, "black_book", _book("#25262b", "#d9b45a"), start=_QUARTER_BACK, bottom=-0.06),
        single(folder, "yellow_book", _book("#e8b61e", "#7a3b12"), start=_QUARTER_BACK, bottom=-0.06),
        single(folder, "desk_caddy", caddy, bottom=_ON_TABLE, density=400, regions=compartments),
        single(folder, "wooden_two_layer_shelf", shelf, bottom=_ON_TABLE, density=400, regions=layers),
    ]
