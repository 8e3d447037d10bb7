"""A LIBERO task as an environment: reset, step, observe.

What LIBERO and robosuite do that nobody expects, and what happens here:

1. Camera buffers come bottom row first. Policies are trained on them turned by 180 degrees, both cameras: upright, and
   mirrored left to right. `SensorReadings` holds them so.
2. Objects drop some centimetres after a reset. Ten steps of the dummy action (no motion, gripper open) settle them; they
   count as no step of the policy.
3. The gripper's command is -1 to open and +1 to close.
4. The state is the gripper's position [3, m], its rotation as axis-angle [3, rad] and both fingers' joints [2, m]; robosuite
   gives a quaternion x, y, z, w.
5. Episode k of a benchmark starts from initial state k of the task's file.
6. An initial state holds no fixture's pose: fixtures are placed anew at each reset from NumPy's global random state. It is
   seeded for every reset and put back afterwards.
7. `ControlEnv.reset` swallows every exception and tries again for ever. The inner environment is reset here, and only a
   failed placement tried again.
8. A soft reset (a tenth of a hard one's time) leaves the gripper's last command standing; it is cleared, so that a used
   environment and a new one give the same bits.
9. Observables are sampled once a control period, up to one simulation step before its end, and not at the end of `step`.
   Cameras are observables here too, and draw at that moment, but only where a picture was asked for.
10. robosuite's own render context prints "Exception ignored" when Python exits, and may not be closed twice. There is none
    here: `Cameras` draws.
11. `import libero.libero` asks a question on stdin, downloads assets, logs to /tmp; `libero.libero.benchmark` imports torch.
    See `package.py`; tasks and initial states are read from their files.
12. After 1000 steps robosuite refuses to go on; the limit of steps is the caller's business here.
13. MuJoCo 3.4 and later settle some scenes differently; `settle_speed` says how fast objects still move after settling.
14. A rotation of exactly 0 holds the gripper's orientation. Any other, were it a millionth, is added to the orientation of the
    moment and makes that the new goal: the arm keeps what it has slipped by, and turns away within an episode.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlascope_sim.environment.annotations import LiftWatch, annotate
from vlascope_sim.environment.cameras import Cameras, RenderMode
from vlascope_sim.environment.package import use_assets
from vlascope_sim.environment.tasks import Task
from vlascope_sim.errors import SimulationError

SETTLE_STEPS = 10
CONTROL_HZ = 20
DUMMY_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""No motion, gripper open."""

_PICTURES = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}
_PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
_PLACEMENT_TRIES = 100


@dataclasses.dataclass(frozen=True)
class SensorReadings:
    """What the cameras and the robot report at a timestep; a policy sees it.

    Attributes:
        image: the scene, uint8 [size, size, 3], as policies are trained on it; None where it was not asked for.
        wrist_image: the same from the wrist.
        state: float64 [8]: gripper position (m), axis-angle (rad), two finger joints (m).
    """

    image: np.ndarray | None
    wrist_image: np.ndarray | None
    state: np.ndarray


class LiberoEnvironment:
    """One task, built once and reset for every episode.

    Equal task, initial state and seed give equal observations, bit for bit, whatever ran before. `close` frees the renderer;
    a second call does nothing.

    Raises:
        SimulationError: LIBERO cannot build the task from these assets.
    """

    def __init__(self, task: Task, assets: Path, *, render: RenderMode = "full", image_size: int = 256):
        self.task = task
        self.settle_speed = math.nan
        """Of the fastest object after settling, m/s."""
        self._wanted = False
        self._closed = False
        use_assets(assets)
        from libero.libero.envs.env_wrapper import ControlEnv

        try:
            self._control: Any = ControlEnv(
                bddl_file_name=str(task.bddl_file),
                has_offscreen_renderer=False,
                use_camera_obs=False,
                hard_reset=False,
                ignore_done=True,
                control_freq=CONTROL_HZ,
            )
        except OSError as error:
            raise SimulationError(
                f"{error.filename or assets}: needed by task {task.id} of {task.suite}, and not in the assets in {assets}"
            ) from error
        self._domain = self._control.env
        self._own_goal = self._domain.parsed_problem["goal_state"]
        self._lifts = LiftWatch(self._domain)
        self._cameras = Cameras(self._domain.sim.model._model, image_size, render)
        self._blank = np.zeros((image_size, image_size, 3), np.uint8)
        self._choose_observables()

    @property
    def instruction(self) -> str:
        """The task in words."""
        return self.task.instruction

    @property
    def domain(self) -> Any:
        """LIBERO's own environment (a `BDDLBaseDomain`), for what needs the model, its bodies or its predicates.

        Whoever changes the simulation through it calls `mark_start` before the episode's first step.
        """
        self._check_open()
        return self._domain

    @property
    def lifted_first(self) -> str | None:
        """The movable object that was first lifted by 5 cm since the episode's start; None as long as none was."""
        self._check_open()
        return self._lifts.first

    def mark_start(self) -> None:
        """Takes this moment as the episode's start: heights count from here, and `settle_speed` is of now.

        `reset` does so by itself; it is for those who displace objects after it.
        """
        self._check_open()
        self.settle_speed = self._object_speed()
        self._lifts = LiftWatch(self._domain)

    def pursue(self, goal: Sequence[Sequence[str]] | None) -> None:
        """Judges by another goal from now on, over resets too: success and annotations are about it.

        Args:
            goal: conditions that must all hold, such as `(("in", "milk_1", "basket_1_contain_region"),)`, by names of the
                scene; None for the task's own.

        Raises:
            SimulationError: a condition names what the scene does not have.
        """
        self._check_open()
        for name in (name for condition in goal or () for name in condition[1:]):
            if name not in self._domain.object_states_dict:
                raise SimulationError(
                    f"goal: task {self.task.id} of {self.task.suite} has no {name!r}; it has "
                    f"{', '.join(sorted(self._domain.object_states_dict))}"
                )
        self._domain.parsed_problem["goal_state"] = self._own_goal if goal is None else [list(each) for each in goal]

    def reset(
        self, init_state_index: int, seed: int, *, settle_steps: int = SETTLE_STEPS, render: bool = True
    ) -> SensorReadings:
        """Starts an episode and settles it.

        Args:
            init_state_index: of the task's file, from 0.
            seed: of the fixtures' places, 0 to 2^32 - 1.
            settle_steps: dummy actions before the observation.
            render: draw the cameras.

        Raises:
            SimulationError: no such initial state, or one of another scene than the assets make.
        """
        self._check_open()
        state = self.task.init_state(init_state_index)
        model = self._domain.sim.model._model
        if len(state) != 1 + model.nq + model.nv:
            raise SimulationError(
                f"initial state {init_state_index} of task {self.task.id} of {self.task.suite}: {len(state)} numbers, but "
                f"the scene built from these assets has {1 + model.nq + model.nv}; they miss a joint, or have one too many"
            )
        before = np.random.get_state()  # noqa: NPY002  (LIBERO draws from the global state)
        np.random.seed(seed)  # noqa: NPY002
        try:
            self._place()
        finally:
            np.random.set_state(before)  # noqa: NPY002
        self._wanted = render and settle_steps == 0
        values = self._control.set_init_state(state)
        for step in range(settle_steps):
            self._wanted = render and step == settle_steps - 1
            values = self._control.step(DUMMY_ACTION)[0]
        self.mark_start()
        return self._readings(values)

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[SensorReadings, bool]:
        """One control period (50 ms).

        Args:
            action: float [7]: pose command scaled to [-1, 1] (beyond, it is clipped), and the gripper.
            render: draw the cameras at the end; without, a step takes a quarter of the time.

        Returns:
            The observation, and whether the goal is reached.

        Raises:
            SimulationError: the action has another shape, or a number that is not finite.
        """
        self._check_open()
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise SimulationError(f"action: expected 7 finite numbers, found {action.tolist()}")
        self._wanted = render
        values, _, success, _ = self._control.step(action)
        self._lifts.look()
        return self._readings(values), bool(success)

    def seen_at(self, point: np.ndarray) -> dict[str, tuple[float, float] | None]:
        """Where the pictures of this moment show a point (m, the world's frame), in front of other things or behind.

        Returns:
            `image` and `wrist_image` -> shares of the picture's side from its left and top, as `SensorReadings` holds the
            picture, in [0, 1); None where the point is out of it.
        """
        self._check_open()
        found = {
            field: self._cameras.project(self._domain.sim.data._data, camera, point)
            for field, camera in _PICTURES.items()
        }
        # observations are mirrored left to right
        return {field: place and (1 - place[0], place[1]) for field, place in found.items()}

    def annotations(self) -> dict[str, np.ndarray]:
        """Poses, distances and gripper of this moment: see `annotations.py`."""
        self._check_open()
        return annotate(self._domain)

    def close(self) -> None:
        """Frees the renderer and the simulation."""
        if not self._closed:
            self._closed = True
            self._cameras.close()
            self._control.close()
            del self._control, self._domain, self._cameras, self._lifts
            gc.collect()

    def __enter__(self) -> LiberoEnvironment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self) -> None:
        from robosuite.utils.errors import RandomizationError

        self._wanted = False
        self._domain.robots[0].gripper.current_action[:] = 0
        for _ in range(_PLACEMENT_TRIES):
            try:
                self._domain.reset()
                return
            except RandomizationError:
                continue
        raise SimulationError(f"task {self.task.id} of {self.task.suite}: no free place found for its objects")

    def _choose_observables(self) -> None:
        from robosuite.utils.observables import Observable, sensor

        for name in self._domain.observation_names - set(_PROPRIOCEPTION):
            self._domain.modify_observable(name, "enabled", False)
            self._domain.modify_observable(name, "active", False)

        def drawing(camera: str) -> Any:
            @sensor(modality="image")
            def draw(_: object) -> np.ndarray:
                if not self._wanted:
                    return self._blank
                return self._cameras.picture(self._domain.sim.data._data, camera)

            return draw

        for camera in _PICTURES.values():
            self._domain.add_observable(Observable(camera, drawing(camera), sampling_rate=CONTROL_HZ))

    def _readings(self, values: dict[str, np.ndarray]) -> SensorReadings:
        pictures = {
            field: np.ascontiguousarray(values[camera][:, ::-1]) if self._wanted else None
            for field, camera in _PICTURES.items()
        }
        position, quaternion, fingers = (values[name] for name in _PROPRIOCEPTION)
        return SensorReadings(**pictures, state=np.concatenate([position, axis_angle(quaternion), fingers]))

    def _object_speed(self) -> float:
        data = self._domain.sim.data
        speeds = [
            np.linalg.norm(data.get_joint_qvel(entity.joints[-1])[:3]) for entity in self._domain.objects_dict.values()
        ]
        return float(max(speeds, default=0.0))

    def _check_open(self) -> None:
        if self._closed:
            raise SimulationError(f"task {self.task.id} of {self.task.suite}: the environment is closed")


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """A rotation's axis times its angle, float64 [3] in radians, from a quaternion x, y, z, w; as robosuite computes it."""
    w = min(1.0, max(-1.0, float(quaternion[3])))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return quaternion[:3] * 2.0 * math.acos(w) / sine
