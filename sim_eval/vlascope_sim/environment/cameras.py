"""Pictures of a simulated scene, drawn when asked for.

`full` draws what robosuite draws, pixel for pixel. `fast` leaves out multisampling and shows the robot's collision meshes
(some thousand faces) where robosuite shows its visual ones (150,000): the same scene and the same poses, four times sooner.

mujoco reads MUJOCO_GL while it is imported, so it is imported where it is needed, after `package.use_assets`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

RenderMode = Literal["full", "fast"]

_COLLISION, _VISUAL, _HIDDEN = 0, 1, 4
_FACES = 1500
_ROBOT = ("robot0_", "gripper0_", "mount0_")


class Cameras:
    """Draws one `mujoco.MjModel`. Its GL context is made at the first picture: a process that draws nothing needs none."""

    def __init__(self, model: Any, size: int, mode: RenderMode):
        import mujoco

        self._model, self._size = model, size
        self._renderer: Any = None
        self._option: Any = mujoco.MjvOption()  # pyright: ignore[reportAttributeAccessIssue]
        self._option.geomgroup[:] = [0, 1, 1, 0, 0, 0]
        model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(size, model.vis.global_.offheight)
        if mode == "fast":
            model.vis.quality.offsamples = 0
            _simplify_robot(model)

    def picture(self, data: Any, camera: str) -> np.ndarray:
        """What a camera sees, uint8 [size, size, 3]: the top row first, left and right as seen."""
        import mujoco

        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, self._size, self._size, max_geom=1000)
        self._renderer.update_scene(data, camera, self._option)
        return self._renderer.render()

    def project(self, data: Any, camera: str, point: np.ndarray) -> tuple[float, float] | None:
        """Where a camera sees a point (m, the world's frame): shares of the picture's side from its left and top.

        None where the point is out of the picture. Something may stand before it.
        """
        number = self._model.camera(camera).id
        # a camera looks along its -z, its y points up; fovy is of the whole height
        x, y, z = data.cam_xmat[number].reshape(3, 3).T @ (point - data.cam_xpos[number])
        if z >= 0:
            return None
        half = -z * math.tan(math.radians(self._model.cam_fovy[number]) / 2)
        left, top = (1 + x / half) / 2, (1 - y / half) / 2
        return (float(left), float(top)) if 0 <= left < 1 and 0 <= top < 1 else None

    def close(self) -> None:
        """Frees the GL context; a second call does nothing."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _simplify_robot(model: Any) -> None:
    """Swaps meshes by their drawing group, which physics does not look at."""
    import mujoco

    mesh = mujoco.mjtGeom.mjGEOM_MESH  # pyright: ignore[reportAttributeAccessIssue]
    for geom in range(model.ngeom):
        body = model.body(model.geom_bodyid[geom]).name
        if not body.startswith(_ROBOT) or model.geom_type[geom] != mesh:
            continue
        if model.geom_group[geom] == _VISUAL and model.mesh_facenum[model.geom_dataid[geom]] > _FACES:
            model.geom_group[geom] = _HIDDEN
        elif model.geom_group[geom] == _COLLISION:
            dark = "finger" in (model.geom(geom).name or "")
            model.geom_group[geom] = _VISUAL
            model.geom_matid[geom] = -1
            model.geom_rgba[geom] = (0.3, 0.3, 0.3, 1) if dark else (0.9, 0.9, 0.92, 1)
