"""How a shape becomes an MJCF file that LIBERO's classes accept.

What LIBERO and robosuite expect of a file:

1. `worldbody/body/body[@name=object]`, and beside that body the sites `bottom_site`, `top_site`, `horizontal_radius_site`. No
   free joint (the class adds one); every name gets the instance's prefix.
2. Every geom has a group: 0 collides and has mass, 1 is drawn. A part is written once for each.
3. `bottom_site` is no true bottom: it decides the height at which initial states were drawn (surface + 1 cm - bottom).
4. Initial states hold quaternions x, y, z, w in the place of w, x, y, z: "upright" is another rotation in each category.
   Parts are given in world axes at that rotation (`Model.start`) and turned back into the body's axes here.
5. A region is a box site with explicit position, quaternion, size and colour. Its joints are those of the innermost body
   that holds it, and the search stops at the first body with no site below it: bodies with regions come first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
"""w, x, y, z."""

UPRIGHT: Quaternion = (1, 0, 0, 0)
_CONTACT = 'condim="4" solref="0.004 1" solimp="0.95 0.99 0.001" friction="0.95 0.02 0.001"'


@dataclasses.dataclass(frozen=True)
class Part:
    """One primitive.

    Attributes:
        type: MuJoCo's geom type.
        size: MuJoCo's half sizes, m.
        at: its centre, m.
        color: `#rrggbb`.
        turn: its rotation.
        role: `visual` parts do not collide and weigh nothing; `collision` parts are not drawn.
    """

    type: Literal["box", "cylinder", "ellipsoid", "capsule", "sphere"]
    size: tuple[float, ...]
    at: Vector = (0, 0, 0)
    color: str = "#cccccc"
    turn: Quaternion = UPRIGHT
    role: Literal["both", "visual", "collision"] = "both"


@dataclasses.dataclass(frozen=True)
class Region:
    """A box that a goal can name; half sizes in m."""

    name: str
    at: Vector
    size: Vector
    turn: Quaternion = UPRIGHT


@dataclasses.dataclass(frozen=True)
class Light:
    """A disc that LIBERO shows while a stove is on."""

    name: str
    at: Vector
    radius: float


@dataclasses.dataclass(frozen=True)
class Joint:
    """A drawer's slide (m) or a door's or knob's hinge (radians) through `at`."""

    name: str
    type: Literal["slide", "hinge"]
    axis: Vector
    range: tuple[float, float]
    damping: float
    at: Vector = (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Body:
    """Parts that move together, and the bodies that hang on them.

    Attributes:
        density: of the parts that collide, kg/m^3.
        inertia: mass (kg) and moment of inertia (kg m^2) in place of what the parts weigh.
    """

    name: str
    parts: Sequence[Part] = ()
    density: float = 250
    regions: Sequence[Region] = ()
    lights: Sequence[Light] = ()
    joint: Joint | None = None
    inertia: tuple[float, float] | None = None
    at: Vector = (0, 0, 0)
    turn: Quaternion = UPRIGHT
    children: Sequence[Body] = ()


@dataclasses.dataclass(frozen=True)
class Model:
    """One file of LIBERO's assets.

    Attributes:
        folder: such as `stable_hope_objects`.
        name: of the object's category.
        body: called `object`.
        start: rotation that the initial states give it.
        bottom: height of `bottom_site`, m; `top` and `radius` belong to the other two sites.
        nested: the file lies in a folder of its own name.
    """

    folder: str
    name: str
    body: Body
    bottom: float
    start: Quaternion = UPRIGHT
    top: float = 0.04
    radius: float = 0.025
    nested: bool = True

    @property
    def path(self) -> str:
        """Where LIBERO looks for it, from the assets' root."""
        return f"{self.folder}/{self.name}/{self.name}.xml" if self.nested else f"{self.folder}/{self.name}.xml"

    def xml(self) -> str:
        """The file."""
        marks: dict[str, Vector] = {
            "bottom_site": (0, 0, self.bottom),
            "top_site": (0, 0, self.top),
            "horizontal_radius_site": (self.radius, self.radius, 0),
        }
        lines = [_body(self.body, conjugate(self.start))]
        lines += [
            f'<site name="{name}" pos="{numbers(at)}" size="0.005" rgba="0 0 0 0"/>' for name, at in marks.items()
        ]
        inside = "\n".join(lines)
        return f'<mujoco model="{self.name}">\n<worldbody>\n<body>\n{inside}\n</body>\n</worldbody>\n</mujoco>\n'


def single(folder: str, name: str, parts: Sequence[Part], **options) -> Model:
    """A model of one body. Options are the fields of `Model`, and `density` and `regions` of `Body`."""
    body = Body("object", parts, options.pop("density", 250), options.pop("regions", ()))
    return Model(folder, name, body, **options)


def _body(body: Body, back: Quaternion) -> str:
    lines = [f'<body name="{body.name}" pos="{numbers(rotate(back, body.at))}" quat="{numbers(body.turn)}">']
    if body.inertia is not None:
        mass, moment = body.inertia
        lines.append(f'<inertial pos="0 0 0" mass="{mass:g}" diaginertia="{numbers((moment,) * 3)}"/>')
    if body.joint is not None:
        joint = body.joint
        lines.append(
            f'<joint name="{joint.name}" type="{joint.type}" axis="{numbers(joint.axis)}" pos="{numbers(joint.at)}" '
            f'limited="true" range="{numbers(joint.range)}" damping="{joint.damping:g}"/>'
        )
    for region in body.regions:
        lines.append(
            f'<site name="{region.name}" type="box" pos="{numbers(rotate(back, region.at))}" '
            f'quat="{numbers(multiply(back, region.turn))}" size="{numbers(region.size)}" group="0" rgba="0.8 0 0 0"/>'
        )
    for light in body.lights:
        lines.append(
            f'<site name="{light.name}" type="cylinder" pos="{numbers(light.at)}" quat="1 0 0 0" '
            f'size="{light.radius:g} 0.0005" rgba="0.9 0.05 0.05 1"/>'
        )
    for number, part in enumerate(body.parts):
        lines += _geoms(f"{body.name}_{number}", part, back, body.density)
    lines += [_body(child, back) for child in body.children]
    return "\n".join([*lines, "</body>"])


def _geoms(name: str, part: Part, back: Quaternion, density: float) -> list[str]:
    place = (
        f'type="{part.type}" size="{numbers(part.size)}" pos="{numbers(rotate(back, part.at))}" '
        f'quat="{numbers(multiply(back, part.turn))}"'
    )
    geoms = []
    if part.role != "visual":
        geoms.append(f'<geom name="{name}" {place} group="0" rgba="0.5 0.5 0.5 0.3" density="{density:g}" {_CONTACT}/>')
    if part.role != "collision":
        geoms.append(
            f'<geom name="{name}_visual" {place} group="1" contype="0" conaffinity="0" mass="0" rgba="{rgba(part.color)}"/>'
        )
    return geoms


def rgba(color: str) -> str:
    """`#rrggbb` as MuJoCo writes an opaque colour."""
    return numbers([*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1])


def numbers(values: Sequence[float] | np.ndarray) -> str:
    """Six digits each: what remains equal whatever machine computed them. No negative zero."""
    return " ".join(f"{round(float(value), 9) + 0.0:.6g}" for value in values)


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """The rotation b, then a."""
    (w, x, y, z), (v, i, j, k) = a, b
    return (
        w * v - x * i - y * j - z * k,
        w * i + x * v + y * k - z * j,
        w * j - x * k + y * v + z * i,
        w * k + x * j - y * i + z * v,
    )


def conjugate(q: Quaternion) -> Quaternion:
    """The rotation back."""
    return (q[0], -q[1], -q[2], -q[3])


def rotate(q: Quaternion, v: Vector) -> Vector:
    """A vector turned by a unit quaternion."""
    _, x, y, z = multiply(multiply(q, (0, v[0], v[1], v[2])), conjugate(q))
    return (x, y, z)


def about(axis: Literal["x", "y", "z"], degrees: float) -> Quaternion:
    """The rotation by an angle about an axis."""
    half = np.radians(degrees) / 2
    turn = [float(np.cos(half)), 0.0, 0.0, 0.0]
    turn[1 + "xyz".index(axis)] = float(np.sin(half))
    return (turn[0], turn[1], turn[2], turn[3])
