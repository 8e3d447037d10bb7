"""Groceries: cans, cartons, bottles and boxes a Panda's gripper (8 cm) can close on.

A grocery's origin is where its initial states on the floor put it when it just touches: 2.5 cm less than its `bottom` above
its base. On tables, which those heights were not drawn for, it drops 3.5 cm.
"""

from __future__ import annotations

from vlascope_sim.assets.mjcf import Model, Part, Quaternion, about, single
from vlascope_sim.assets.shapes import SKIN, raised

_HALF_TURN: Quaternion = (0, 0, 0, 1)
_QUARTER_TURN: Quaternion = (0.5**0.5, 0, 0, 0.5**0.5)
_CAN: Quaternion = (0, 0, 0.5**0.5, 0.5**0.5)
_BOTTLE: Quaternion = (0.5, 0.5, 0.5, 0.5)
_FLOOR_OFFSET = 0.025


def can(radius: float, height: float, label: str, band: str) -> list[Part]:
    """A tin with a label round it and a band round the label."""
    middle = (0, 0, height / 2)
    return [
        Part("cylinder", (radius, height / 2), middle, "#c4c7cc"),
        Part("cylinder", (radius + SKIN, height * 0.42), middle, label, role="visual"),
        Part("cylinder", (radius + 2 * SKIN, height * 0.14), middle, band, role="visual"),
    ]


def packet(x: float, y: float, height: float, color: str, band: str) -> list[Part]:
    """A box with a band across it."""
    middle = (0, 0, height / 2)
    return [
        Part("box", (x / 2, y / 2, height / 2), middle, color),
        Part("box", (x * 0.28, y / 2 + SKIN, height / 2 + SKIN), middle, band, role="visual"),
    ]


def carton(width: float, height: float, color: str, band: str) -> list[Part]:
    """A drink's carton: a box, a gable and a cap."""
    slope = 0.7 * width / 2
    return [
        Part("box", (width / 2, width / 2, height / 2), (0, 0, height / 2), color),
        Part("box", (width / 2 + SKIN, width / 2 + SKIN, height * 0.2), (0, 0, height * 0.42), band, role="visual"),
        Part("box", (slope, width / 2, slope), (0, 0, height), color, about("y", 45)),
        Part("cylinder", (0.009, 0.006), (0, 0, height + width / 2 + 0.004), band),
    ]


def bottle(radius: float, height: float, neck: float, color: str, label: str, cap: str) -> list[Part]:
    """A bottle with a label round it and a cap."""
    return [
        Part("cylinder", (radius, height / 2), (0, 0, height / 2), color),
        Part("cylinder", (radius + SKIN, height * 0.28), (0, 0, height * 0.48), label, role="visual"),
        Part("ellipsoid", (radius, radius, 0.018), (0, 0, height), color),
        Part("cylinder", (0.011, neck / 2), (0, 0, height + neck / 2), color),
        Part("cylinder", (0.013, 0.011), (0, 0, height + neck), cap),
    ]


_DRESSING = bottle(0.026, 0.078, 0.016, "#a9c34a", "#2e7d3a", "#1f5c2b")

_SHAPES: dict[str, tuple[Quaternion, float, list[Part]]] = {
    "alphabet_soup": (_CAN, -0.04, can(0.031, 0.076, "#c8202a", "#f7ecc8")),
    "tomato_sauce": (_CAN, -0.06, can(0.031, 0.070, "#2c9a44", "#d8342a")),
    "cream_cheese": (_HALF_TURN, -0.025, packet(0.072, 0.052, 0.030, "#c9d8f5", "#2848b8")),
    "butter": (_HALF_TURN, -0.02, packet(0.046, 0.050, 0.030, "#ffd92e", "#fff3b8")),
    "chocolate_pudding": (_HALF_TURN, -0.06, packet(0.044, 0.050, 0.034, "#4b2a20", "#b084e0")),
    "cookies": (_QUARTER_TURN, -0.06, packet(0.100, 0.052, 0.036, "#dd7718", "#6b2a0c")),
    "milk": (_BOTTLE, -0.06, carton(0.054, 0.078, "#f4f6fa", "#3a86d8")),
    "orange_juice": (_BOTTLE, -0.06, carton(0.054, 0.084, "#fb8f1c", "#f2620a")),
    "ketchup": (_BOTTLE, -0.06, bottle(0.026, 0.078, 0.016, "#b00c0c", "#e0301e", "#f5f5f5")),
    "bbq_sauce": (_QUARTER_TURN, -0.06, bottle(0.026, 0.078, 0.016, "#3a180c", "#e6982a", "#191919")),
    "salad_dressing": (_BOTTLE, -0.06, _DRESSING),
    "new_salad_dressing": (_BOTTLE, -0.06, _DRESSING),
}


def groceries() -> list[Model]:
    """The categories of LIBERO's `hope_objects` that the five suites use."""
    return [
        single(
            "stable_hope_objects",
            name,
            raised(parts, -max(0.0, -bottom - _FLOOR_OFFSET)),
            start=start,
            bottom=bottom,
        )
        for name, (start, bottom, parts) in _SHAPES.items()
    ]
