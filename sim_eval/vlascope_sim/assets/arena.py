"""The rooms: floor, walls, lights, cameras, and the table that tasks happen on.

What LIBERO's arena classes expect: textures `texplane` and `tex-wall` with a file in `../textures`, whose name they replace by
the style's; a floor arena with a body `floor` that holds the geom `floor`; table arenas with a geom `floor` in the world and
a body `table`, `study_table` or `living_room_table`. The first two styles of table are placed by the class; the others stand
where their bodies say, with the body's origin at the world's, for goals on the table are sites placed relative to it.
"""

from __future__ import annotations

import dataclasses

from vlascope_sim.assets.mjcf import Vector, numbers
from vlascope_sim.assets.textures import linen, plaster, png, tiles, wood

_TEXTURES = {
    "light-gray-floor-tile": tiles("#b4b7bc", 30),
    "gray_ceramic_tile": tiles("#9aa0a6", 26),
    "seamless_wood_planks_floor": wood("#a98256", planks=4),
    "light-gray-plaster": plaster("#d3d5d2"),
    "yellow_linen_wall_texture": linen("#e3d3a4"),
    "table_oak": wood("#b98d5c"),
    "table_pale": wood("#d8c3a0"),
    "table_walnut": wood("#7b5334"),
    "table_ash": wood("#c9ad84"),
}
"""Names of floors and walls are those of LIBERO's styles; those of tables are our own."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's top: the body's name, its texture, full size and where its middle lies (m); None: the class sets both."""

    body: str
    texture: str
    size: Vector | None = None
    top: Vector | None = None


_TABLES = {
    "libero_floor_base_style": None,
    "libero_tabletop_base_style": Table("table", "table_oak"),
    "libero_kitchen_tabletop_base_style": Table("table", "table_pale"),
    "libero_study_base_style": Table("study_table", "table_ash", (1.0, 1.2, 0.05), (-0.2, 0, 0.867)),
    "libero_living_room_tabletop_base_style": Table(
        "living_room_table", "table_walnut", (0.7, 1.6, 0.024), (0, 0, 0.41)
    ),
}


def arenas() -> dict[str, bytes]:
    """Path from the assets' root → file: the scenes and their textures."""
    files = {f"scenes/{name}.xml": _scene(name, table).encode() for name, table in _TABLES.items()}
    files.update({f"textures/{name}.png": png(pixels) for name, pixels in _TEXTURES.items()})
    return files


def _scene(name: str, table: Table | None) -> str:
    floor = '<geom name="floor" type="plane" size="3 3 0.125" condim="3" group="1" material="floor"/>'
    parts = [f'<body name="floor">{floor}</body>' if table is None else floor, _ROOM]
    if table is not None and table.size is None:
        parts.append(_class_table(table))
    elif table is not None:
        parts.append(_own_table(table))
    assets = _ASSETS.replace("TABLE", table.texture if table else "table_oak")
    return f'<mujoco model="{name}">\n{assets}\n<worldbody>\n' + "\n".join(parts) + "\n</worldbody>\n</mujoco>\n"


def _class_table(table: Table) -> str:
    """LIBERO sets the size and place of these geoms."""
    drawn = 'contype="0" conaffinity="0" group="1" material="table"'
    legs = "\n".join(
        f'<geom name="table_leg{number}_visual" type="cylinder" size="0.05 0.1" {drawn}/>' for number in (1, 2, 3, 4)
    )
    return (
        f'<body name="{table.body}" pos="0 0 0.4">\n'
        '<geom name="table_collision" type="box" size="0.4 0.4 0.4" group="0" friction="1 0.005 0.0001"/>\n'
        f'<geom name="table_visual" type="box" size="0.4 0.4 0.4" {drawn}/>\n'
        f'<site name="table_top" pos="0 0 0.4" size="0.001 0.001 0.001" rgba="0 0 0 0"/>\n{legs}\n</body>'
    )


def _own_table(table: Table) -> str:
    assert table.size is not None  # noqa: S101
    assert table.top is not None  # noqa: S101
    (x, y, thick), (left, middle, top) = table.size, table.top
    board = f'type="box" pos="{numbers((left, middle, top - thick / 2))}" size="{numbers((x / 2, y / 2, thick / 2))}"'
    drawn = 'contype="0" conaffinity="0" group="1" material="table"'
    height = (top - thick) / 2
    geoms = [
        f'<geom name="table_collision" {board} group="0" friction="1 0.005 0.0001"/>',
        f'<geom name="table_visual" {board} {drawn}/>',
    ]
    for number in range(4):
        at = (
            left + (x / 2 - 0.06) * (-1 if number % 2 else 1),
            middle + (y / 2 - 0.06) * (-1 if number // 2 else 1),
            height,
        )
        geoms.append(
            f'<geom name="table_leg{number}" type="cylinder" pos="{numbers(at)}" size="0.025 {height:g}" {drawn}/>'
        )
    if table.body == "living_room_table":
        geoms.append(
            '<geom name="pedestal" type="cylinder" pos="-0.51 0 0.205" size="0.09 0.205" contype="0" conaffinity="0" '
            'group="1" rgba="0.35 0.36 0.38 1"/>'
        )
    return f'<body name="{table.body}" pos="0 0 0">\n' + "\n".join(geoms) + "\n</body>"


def _wall(name: str, at: str, turn: str, size: str) -> str:
    return (
        f'<geom name="{name}" type="box" pos="{at}" quat="{turn}" size="{size}" contype="0" conaffinity="0" group="1" '
        'material="wall"/>'
    )


def _light(at: str, towards: str, strength: float) -> str:
    return (
        f'<light pos="{at}" dir="{towards}" directional="true" castshadow="false" ambient="0.03 0.03 0.03" '
        f'diffuse="{strength:g} {strength:g} {strength:g}" specular="0.15 0.15 0.15"/>'
    )


_ASSETS = """<asset>
<texture type="skybox" builtin="gradient" rgb1="0.9 0.9 1" rgb2="0.2 0.3 0.4" width="64" height="64"/>
<texture name="texplane" type="2d" file="../textures/light-gray-floor-tile.png"/>
<material name="floor" texture="texplane" texrepeat="1 1" texuniform="true" reflectance="0" shininess="0" specular="0"/>
<texture name="tex-wall" type="2d" file="../textures/light-gray-plaster.png"/>
<material name="wall" texture="tex-wall" texrepeat="3 3" texuniform="true" reflectance="0" shininess="0.1" specular="0.1"/>
<texture name="tex-table" type="2d" file="../textures/TABLE.png"/>
<material name="table" texture="tex-table" texrepeat="1 1" texuniform="true" reflectance="0" shininess="0" specular="0.1"/>
</asset>"""

_ROOM = "\n".join(
    [
        _wall("wall_rear_visual", "-2 0 1.5", "0.5 0.5 0.5 0.5", "3 1.5 0.01"),
        _wall("wall_front_visual", "3 0 1.5", "0.5 0.5 -0.5 -0.5", "3 1.5 0.01"),
        _wall("wall_left_visual", "0.5 3 1.5", "0.707107 0.707107 0 0", "2.5 1.5 0.01"),
        _wall("wall_right_visual", "0.5 -3 1.5", "0.707107 -0.707107 0 0", "2.5 1.5 0.01"),
        _light("0 0 4", "0.1 -0.15 -1", 0.38),
        _light("3 1 3", "-1 -0.3 -0.6", 0.22),
        _light("-1 -3 3", "0.3 1 -0.8", 0.15),
        '<camera name="frontview" mode="fixed" pos="1 0 1.45" quat="0.56 0.43 0.43 0.56"/>',
        '<camera name="birdview" mode="fixed" pos="-0.2 0 3" quat="0.7071 0 0 0.7071"/>',
        '<camera name="agentview" mode="fixed" pos="0.5 0 1.35" quat="0.653 0.271 0.271 0.653"/>',
        '<camera name="sideview" mode="fixed" pos="-0.0565 1.276 1.488" quat="0.0099 0.0069 0.5912 0.8064"/>',
    ]
)
