"""Where the things of a scene are, and how far they reach: read from the simulation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlascope_sim.environment import LiberoEnvironment

_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)))
_COLLIDING = 0
"""robosuite's group of geoms that collide."""


class Scene:
    """A view of an environment's present moment, in metres and the world's frame.

    Attributes:
        objects: names of what can be moved.
        fixtures: names of what cannot.
    """

    def __init__(self, environment: LiberoEnvironment):
        import mujoco

        self.environment = environment
        self.domain: Any = environment.domain
        self.sim: Any = self.domain.sim
        self.model, self.data = self.sim.model._model, self.sim.data._data
        self.objects: tuple[str, ...] = tuple(self.domain.objects_dict)
        self.fixtures: tuple[str, ...] = tuple(
            name for name in self.domain.fixtures_dict if name in self.domain.obj_body_id
        )
        kinds: Any = mujoco.mjtGeom  # pyright: ignore[reportAttributeAccessIssue]
        self._round = (kinds.mjGEOM_SPHERE, kinds.mjGEOM_CYLINDER, kinds.mjGEOM_ELLIPSOID, kinds.mjGEOM_CAPSULE)
        roots = self.model.body_rootid[self.model.geom_bodyid]
        colliding = self.model.geom_group == _COLLIDING
        self._roots = {name: int(self.domain.obj_body_id[name]) for name in (*self.objects, *self.fixtures)}
        self._geoms = {
            name: np.flatnonzero((roots == self.model.body_rootid[root]) & colliding)
            for name, root in self._roots.items()
        }

    @property
    def gripper(self) -> np.ndarray:
        """The point between the fingers, [3]."""
        return np.array(self.data.site_xpos[self.domain.robots[0].eef_site_id])

    @property
    def opening(self) -> float:
        """Between the fingers, m."""
        joints = self.domain.robots[0]._ref_gripper_joint_pos_indexes
        return float(np.abs(self.data.qpos[joints]).sum())

    @property
    def robot_base(self) -> np.ndarray:
        """Where the robot stands, [3]."""
        return np.array(self.sim.data.get_body_xpos("robot0_base"))

    def position(self, name: str) -> np.ndarray:
        """The origin of an object or fixture, or the middle of a region, [3]."""
        if name in self._roots:
            return np.array(self.data.xpos[self._roots[name]])
        return np.array(self.sim.data.get_site_xpos(name))

    def orientation(self, name: str) -> np.ndarray:
        """Of an object: quaternion w, x, y, z."""
        return np.array(self.data.xquat[self._roots[name]])

    def holder(self, name: str) -> str:
        """The object or fixture that a region is part of; of any other name, itself."""
        region = self.domain.object_sites_dict.get(name)
        return name if region is None or region.parent_name not in self._roots else region.parent_name

    def boxes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of every colliding geom of an object or fixture, the box round it: low and high corners, each [geoms, 3]."""
        geoms = self._geoms[name]
        local = self.model.geom_aabb[geoms]
        frames = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        middle = self.data.geom_xpos[geoms] + np.einsum("gij,gj->gi", frames, local[:, :3])
        reach = np.einsum("gij,gj->gi", np.abs(frames), local[:, 3:])
        return middle - reach, middle + reach

    def extent(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The box round an object or fixture: low and high corner, each [3]."""
        low, high = self.boxes(name)
        return low.min(0), high.max(0)

    def radius(self, name: str) -> float:
        """Of the upright cylinder round an object, about its origin."""
        geoms = self._geoms[name]
        local, frames = self.model.geom_aabb[geoms], self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        corners = local[:, None, :3] + _CORNERS * local[:, None, 3:]
        places = self.data.geom_xpos[geoms][:, None] + np.einsum("gij,gcj->gci", frames, corners)
        reach = np.linalg.norm(places[..., :2] - self.position(name)[:2], axis=-1).max(1)
        low, high = self.boxes(name)
        middle, half = (low + high)[:, :2] / 2, (high - low)[:, :2].max(1) / 2
        is_round = np.isin(self.model.geom_type[geoms], self._round)
        reach_of_round = np.linalg.norm(middle - self.position(name)[:2], axis=1) + half
        return float(np.where(is_round, reach_of_round, reach).max())

    def holds(self, condition: tuple[str, ...]) -> bool:
        """Whether a condition such as `("in", "milk_1", "basket_1_contain_region")` is met, by LIBERO's own predicate."""
        return bool(self.domain._eval_predicate(list(condition)))

    def touching(self) -> dict[str, set[str]]:
        """Object → the objects and fixtures that it touches, and `""` for anything else: a floor, a table, the robot."""
        names = {int(self.model.body_rootid[root]): name for name, root in self._roots.items()}
        roots = self.model.body_rootid[self.model.geom_bodyid]
        found: dict[str, set[str]] = {name: set() for name in self.objects}
        for contact in self.data.contact[: self.data.ncon]:
            one, other = (names.get(int(roots[geom]), "") for geom in (contact.geom1, contact.geom2))
            for name, touched in ((one, other), (other, one)):
                if name in found and name != touched:
                    found[name].add(touched)
        return found

    def put(self, name: str, place: tuple[float, float], lift: float) -> None:
        """Sets an object down elsewhere, at rest, turned as it is, `lift` higher than it was."""
        joint = self.domain.objects_dict[name].joints[-1]
        pose = np.array(self.sim.data.get_joint_qpos(joint))
        pose[:2], pose[2] = place, pose[2] + lift
        self.sim.data.set_joint_qpos(joint, pose)
        self.sim.data.set_joint_qvel(joint, np.zeros(6))

    def speed(self) -> float:
        """Of the fastest object, m/s."""
        return self.environment._object_speed()
