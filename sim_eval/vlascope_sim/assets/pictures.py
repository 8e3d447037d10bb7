"""What the agent's camera shows of a scene: pixels and colours of every object, and sheets of many tasks. Knows nothing of
criteria.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment

_CAMERA = "agentview"
_SIZE = 256
LABEL_HEIGHT = 48
"""Pixels over each picture of a sheet."""
_GEOM = 5
"""MuJoCo's `mjOBJ_GEOM`, the kind of thing that a pixel of a segmentation shows."""


@dataclasses.dataclass(frozen=True)
class Appearance:
    """One object as the camera shows it: how many pixels, and their mean colour in CIELAB (D65), float64 [3]."""

    pixels: int
    color: np.ndarray


class Viewer:
    """Draws one environment's scene. `close` frees its GL context."""

    def __init__(self, environment: LiberoEnvironment):
        import mujoco

        self._domain: Any = environment.domain
        self._model, self._data = self._domain.sim.model._model, self._domain.sim.data._data
        self._option = mujoco.MjvOption()  # pyright: ignore[reportAttributeAccessIssue]
        self._option.geomgroup[:] = [0, 1, 1, 0, 0, 0]
        self._renderer = mujoco.Renderer(self._model, _SIZE, _SIZE, max_geom=2000)

    def appearances(self) -> dict[str, Appearance]:
        """Every object and fixture, by name."""
        picture = self._draw()
        self._renderer.enable_segmentation_rendering()
        ids, types = np.moveaxis(self._draw(), 2, 0)
        self._renderer.disable_segmentation_rendering()
        geoms = np.where(types == _GEOM, ids, -1)
        roots = np.where(geoms >= 0, self._model.body_rootid[self._model.geom_bodyid[geoms]], -1)
        found = {}
        for name, body in self._domain.obj_body_id.items():
            mask = roots == self._model.body_rootid[body]
            color = lab(picture[mask]).mean(0) if mask.any() else np.full(3, np.nan)
            found[name] = Appearance(int(mask.sum()), color)
        return found

    def close(self) -> None:
        """Frees the GL context."""
        self._renderer.close()

    def _draw(self) -> np.ndarray:
        self._renderer.update_scene(self._data, _CAMERA, self._option)
        return self._renderer.render()


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB, uint8 [..., 3], to CIELAB under D65 (IEC 61966-2-1 and CIE 15:2004)."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), xyz * 7.787 + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def write_sheet(pictures: Iterable[tuple[str, np.ndarray]], file: Path, columns: int = 5) -> None:
    """Labelled pictures, uint8 [size, size, 3], side by side as one PNG.

    Raises:
        OSError: the file cannot be written.
    """
    import textwrap

    from PIL import Image, ImageDraw

    tiles = list(pictures)
    size, label = tiles[0][1].shape[0], LABEL_HEIGHT
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (size + 6), rows * (size + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (text, picture) in enumerate(tiles):
        left, top = number % columns * (size + 6), number // columns * (size + label)
        draw.multiline_text((left + 3, top + 3), "\n".join(textwrap.wrap(text, size // 6)[:3]), fill="black")
        sheet.paste(Image.fromarray(picture), (left, top + label))
    sheet.save(file, format="PNG")
