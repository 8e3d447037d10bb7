"""What stands fixed on a kitchen table: cabinets, stove, microwave, wine rack.

Fixtures stand with their origin on the table (`bottom` of -4 cm puts it there) and open towards -y. Travel of drawers, doors
and knobs is what LIBERO's classes take for open, closed and on.
"""

from __future__ import annotations

from vlascope_sim.assets.mjcf import Body, Joint, Light, Model, Part, Region
from vlascope_sim.assets.shapes import SKIN

_BOTTOM = -0.04
_MOVING = (3.0, 1.0)
"""Mass (kg) and moment of inertia (kg m^2) of drawers, doors and knobs: heavy, so that a touch does not move them."""


def _fixture(name: str, *bodies: Body) -> Model:
    body = Body("object", children=bodies)
    return Model("articulated_objects", name, body, _BOTTOM, top=0.045, radius=0.045, nested=False)


def _cabinet(name: str, color: str, front: str, handle: str) -> Model:
    """A carcass with three drawers; each drawer's inside and the carcass's top are regions."""
    width, depth, height, thick, back = 0.200, 0.170, 0.250, 0.006, 0.026
    walls = [
        Part("box", (thick / 2, depth / 2, height / 2), (sign * (width - thick) / 2, back, height / 2), color)
        for sign in (1, -1)
    ]
    walls += [
        Part("box", (width / 2, thick / 2, height / 2), (0, back + (depth - thick) / 2, height / 2), color),
        Part("box", (width / 2, depth / 2, thick / 2), (0, back, height - thick / 2), color),
        Part("box", (width / 2, depth / 2, thick / 2), (0, back, thick / 2), color),
    ]
    drawers = [
        _drawer(level, 0.010 + number * 0.078, width - 2 * thick - 0.010, front, handle)
        for number, level in ((2, "top"), (1, "middle"), (0, "bottom"))
    ]
    top = Region("top_side", (0, back, height), (width / 2, depth / 2, 0.0015))
    return _fixture(name, Body("base", walls, 100, [top], children=drawers))


def _drawer(level: str, low: float, width: float, color: str, handle: str) -> Body:
    depth, height, middle = 0.160, 0.066, low + 0.033
    parts = [
        Part("box", (width / 2, depth / 2, 0.002), (0, 0.010, low + 0.002), color),
        Part("box", (width / 2, 0.003, height / 2), (0, -0.072, middle), color),
        Part("box", (width / 2, 0.003, height / 2), (0, 0.088, middle), color),
        Part("box", (0.003, depth / 2, height / 2), (-width / 2 + 0.003, 0.010, middle), color),
        Part("box", (0.003, depth / 2, height / 2), (width / 2 - 0.003, 0.010, middle), color),
        Part("box", (0.045, 0.006, 0.007), (0, -0.102, middle), handle),
        Part("box", (0.006, 0.012, 0.006), (-0.035, -0.087, middle), handle),
        Part("box", (0.006, 0.012, 0.006), (0.035, -0.087, middle), handle),
    ]
    return Body(
        f"cabinet_{level}",
        parts,
        100,
        [Region(f"{level}_region", (0, 0.010, middle), (width / 2 - 0.008, 0.074, height / 2))],
        joint=Joint(f"{level}_level", "slide", (0, 1, 0), (-0.16, 0.01), 50),
        inertia=_MOVING,
    )


def _stove() -> Model:
    """One plate, and a knob that lights it."""
    height = 0.042
    plate = Body(
        "burner",
        [
            Part("box", (0.095, 0.095, height / 2), (0, 0, height / 2), "#8b9098"),
            Part("cylinder", (0.078, 0.0005), (0, 0, height), "#2b2c2f", role="visual"),
            Part("cylinder", (0.052, 0.0005), (0, 0, height + 0.0004), "#45474c", role="visual"),
            Part("cylinder", (0.024, 0.0005), (0, 0, height + 0.0008), "#2b2c2f", role="visual"),
        ],
        400,
        [Region("cook_region", (0, 0, height - 0.0025), (0.080, 0.080, 0.0025))],
        [Light("burner", (0, 0, height + 0.0016), 0.0625)],
        at=(0.15, 0, 0),
    )
    knob = Body(
        "button",
        [
            Part("cylinder", (0.045, 0.014), (0, 0, 0.014), "#3a3c40"),
            Part("box", (0.010, 0.038, 0.014), (0, 0, 0.042), "#1b1c1e"),
            Part("box", (0.004, 0.012, 0.0006), (0, 0.024, 0.056 + SKIN), "#f2f2f2", role="visual"),
        ],
        400,
        joint=Joint("button", "hinge", (0, 0, 1), (-0.005, 2.1), 1),
        inertia=_MOVING,
        turn=(0.5**0.5, 0, 0, 0.5**0.5),
    )
    return _fixture("flat_stove", Body("base", children=[plate, knob]))


def _microwave() -> Model:
    """A box with a door hinged at -x; its inside and its top are regions."""
    width, depth, height, thick, window = 0.290, 0.220, 0.230, 0.010, 0.105
    shell, dark = "#b4bac3", "#26282c"
    floor, inner = 0.030, width - 2 * thick
    walls = [
        Part("box", (thick / 2, depth / 2, height / 2), (sign * (width - thick) / 2, 0, height / 2), shell)
        for sign in (1, -1)
    ]
    walls += [
        Part("box", (inner / 2, depth / 2, floor / 2), (0, 0, floor / 2), shell),
        Part("box", (inner / 2, depth / 2, thick / 2), (0, 0, height - thick / 2), shell),
        Part("box", (inner / 2, thick / 2, height / 2), (0, (depth - thick) / 2, height / 2), shell),
        Part("cylinder", (0.085, 0.0005), (0, 0, floor + 0.0005), "#aeb6be", role="visual"),
    ]
    regions = [
        Region("top_side", (0, 0, height), (width / 2 - 0.02, depth / 2 - 0.02, 0.0015)),
        Region("heating_region", (0, 0, (floor + height - thick) / 2), (0.120, 0.092, (height - thick - floor) / 2)),
    ]
    hinge, face = (-width / 2, -depth / 2, 0.0), -depth / 2 - 0.010
    middle = (0, face, height / 2)
    door = Body(
        "door",
        [
            Part("box", (width / 2, 0.008, height / 2), middle, shell),
            Part("box", (window, 0.0084, 0.075), (-0.025, face, height / 2), dark, role="visual"),
            Part("box", (0.012, 0.0084, 0.060), (0.118, face, height / 2), "#3f6db0", role="visual"),
            Part("box", (0.005, 0.005, 0.060), (0.092, face - 0.030, height / 2), "#5a5e66"),
            Part("box", (0.005, 0.014, 0.005), (0.092, face - 0.018, height / 2 + 0.050), "#5a5e66"),
            Part("box", (0.005, 0.014, 0.005), (0.092, face - 0.018, height / 2 - 0.050), "#5a5e66"),
        ],
        100,
        joint=Joint("microjoint", "hinge", (0, 0, 1), (-2.094, 0), 1, at=hinge),
        inertia=(3.0, 0.1),
    )
    return _fixture("microwave", Body("base", walls, 100, regions), door)


def _wine_rack() -> Model:
    """A shelf with a low rail round it, on which a bottle stands or lies, over crossed slats."""
    wood, light, height, tall = "#7a4f2a", "#94663a", 0.150, 0.012
    top = height + 0.005
    parts = [
        Part("box", (0.110, 0.065, 0.005), (0, 0, height), light),
        Part("box", (0.110, 0.065, 0.006), (0, 0, 0.006), wood),
        Part("box", (0.006, 0.065, height / 2), (-0.104, 0, height / 2), wood),
        Part("box", (0.006, 0.065, height / 2), (0.104, 0, height / 2), wood),
    ]
    for sign in (1, -1):
        parts.append(Part("box", (0.110, 0.004, tall / 2), (0, sign * 0.061, top + tall / 2), wood))
        parts.append(Part("box", (0.004, 0.057, tall / 2), (sign * 0.106, 0, top + tall / 2), wood))
        slat = (0.828, 0, sign * 0.5607, 0)
        parts.append(Part("box", (0.004, 0.060, 0.105), (0, 0, height / 2), wood, slat, "visual"))
    region = Region("top_region", (0, 0, top), (0.100, 0.055, 0.003))
    return Model("turbosquid_objects", "wine_rack", Body("object", parts, 400, [region]), _BOTTOM)


def furniture() -> list[Model]:
    """The kitchen's fixtures."""
    return [
        _cabinet("wooden_cabinet", "#5a3820", "#7a4e2c", "#c9ccd2"),
        _cabinet("white_cabinet", "#dcdcd8", "#f1f1ee", "#55585e"),
        _stove(),
        _microwave(),
        _wine_rack(),
    ]
