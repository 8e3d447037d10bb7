"""Plates, bowls, mugs, pans, and what things are put into: basket and tray.

Origins lie on the base, but for the wine bottle, whose initial states drop it least so. Bowls and mugs are held by their
rim, which the gripper straddles at +y or -y.
"""

from __future__ import annotations

from vlascope_sim.assets.mjcf import Model, Part, Quaternion, Region, single
from vlascope_sim.assets.shapes import crate, disc, dish, raised, ring

_QUARTER_TURN: Quaternion = (0.5**0.5, 0, 0, 0.5**0.5)
_QUARTER_BACK: Quaternion = (0.5**0.5, 0, 0, -(0.5**0.5))
_HALF_TURN: Quaternion = (0, 0, 0, 1)


def _bowl(color: str, inside: str) -> list[Part]:
    return [*dish(0.026, 0.050, 0.042, 0.004, color), disc(0.025, 0.0045, inside)]


def _plate() -> list[Part]:
    return [
        *dish(0.042, 0.062, 0.012, 0.005, "#eef0f4", sides=16),
        disc(0.036, 0.0054, "#c23b3b"),
        disc(0.030, 0.0056, "#f6f7fa"),
    ]


def _mug(color: str, band: str) -> list[Part]:
    """A mug with a handle towards +x, away from the gripper's fingers."""
    parts = dish(0.029, 0.033, 0.078, 0.004, color)
    low = ring(12, 0.0305, 0.0325, (0.006, 0.034), 0.004, band)
    parts += [Part(p.type, (p.size[0] + 0.0006, *p.size[1:]), p.at, band, p.turn, "visual") for p in low]
    for z in (0.022, 0.058):
        parts.append(Part("box", (0.010, 0.004, 0.004), (0.043, 0, z), color))
    parts.append(Part("box", (0.004, 0.004, 0.022), (0.053, 0, 0.040), color))
    return parts


def _frying_pan() -> list[Part]:
    """A pan with a handle towards the robot, narrow enough to be gripped."""
    return [
        *dish(0.068, 0.082, 0.034, 0.004, "#3a3d42", sides=16),
        disc(0.067, 0.0045, "#5a5f66"),
        Part("box", (0.055, 0.009, 0.006), (-0.130, 0, 0.030), "#17181a"),
        Part("box", (0.010, 0.0095, 0.0065), (-0.088, 0, 0.030), "#b8322a", role="visual"),
    ]


def _moka_pot() -> list[Part]:
    steel, dark = "#b9bec6", "#1d1e20"
    return [
        Part("cylinder", (0.034, 0.026), (0, 0, 0.026), steel),
        Part("cylinder", (0.030, 0.006), (0, 0, 0.056), dark),
        Part("cylinder", (0.032, 0.022), (0, 0, 0.084), steel),
        Part("ellipsoid", (0.031, 0.031, 0.012), (0, 0, 0.106), steel),
        Part("sphere", (0.007,), (0, 0, 0.121), dark),
        Part("box", (0.012, 0.006, 0.008), (-0.036, 0, 0.098), steel),
        Part("box", (0.014, 0.006, 0.004), (0.042, 0, 0.100), dark),
        Part("box", (0.005, 0.006, 0.024), (0.053, 0, 0.080), dark),
    ]


def _wine_bottle() -> list[Part]:
    glass = "#24523a"
    parts = [
        Part("cylinder", (0.028, 0.065), (0, 0, 0.065), glass),
        Part("cylinder", (0.0285, 0.030), (0, 0, 0.060), "#efe6cc", role="visual"),
        Part("ellipsoid", (0.028, 0.028, 0.022), (0, 0, 0.130), glass),
        Part("cylinder", (0.010, 0.030), (0, 0, 0.165), glass),
        Part("cylinder", (0.0115, 0.010), (0, 0, 0.190), "#8a1c28"),
    ]
    return raised(parts, -0.058)


_BASKET_REGION = Region("contain_region", (0, 0, 0.070), (0.061, 0.061, 0.069))
"""As wide as the cavity; from its floor to a little above the rim."""
_TRAY_REGION = Region("contain_region", (0, 0, 0.050), (0.125, 0.090, 0.049))


def tableware() -> list[Model]:
    """The movable categories of LIBERO's `google_scanned_objects` and `turbosquid_objects`, books apart."""
    scanned = {
        "basket": (crate(0.150, 0.150, 0.090, 0.008, "#b98a52", "#9a6a38", floor="#8c6033"), 400, [_BASKET_REGION]),
        "plate": (_plate(), 400, []),
        "akita_black_bowl": (_bowl("#1b1b1f", "#3a2f2a"), 300, []),
        "white_bowl": (_bowl("#e4edf7", "#7fb0e2"), 300, []),
        "glazed_rim_porcelain_ramekin": (
            [*dish(0.032, 0.027, 0.036, 0.004, "#e3d3b4"), disc(0.026, 0.0045, "#b98f5a")],
            300,
            [],
        ),
        "chefmate_8_frypan": (_frying_pan(), 300, []),
    }
    other = {
        "wooden_tray": (
            crate(0.270, 0.200, 0.034, 0.008, "#a8743e", "#c08a50", floor="#b98048"),
            400,
            _HALF_TURN,
            [_TRAY_REGION],
        ),
        "wine_bottle": (_wine_bottle(), 250, _HALF_TURN, []),
        "moka_pot": (_moka_pot(), 250, _HALF_TURN, []),
        "red_coffee_mug": (_mug("#c62828", "#7f1414"), 300, _QUARTER_BACK, []),
        "porcelain_mug": (_mug("#f2f3f5", "#c7d7e6"), 300, _QUARTER_BACK, []),
        "white_yellow_mug": (_mug("#f6f2e2", "#f2b90f"), 300, _QUARTER_BACK, []),
    }
    models = [
        single(
            "stable_scanned_objects", name, parts, start=_QUARTER_TURN, bottom=-0.06, density=density, regions=regions
        )
        for name, (parts, density, regions) in scanned.items()
    ]
    models += [
        single("turbosquid_objects", name, parts, start=start, bottom=-0.06, density=density, regions=regions)
        for name, (parts, density, start, regions) in other.items()
    ]
    return models
