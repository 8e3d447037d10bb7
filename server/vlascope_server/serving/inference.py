"""One observation on its way to actions: prepared, captured, computed, answered. Runs on its client's worker thread."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from vlascope_base.text import printable
from vlascope_latents import CapturePlan
from vlascope_latents.store import StoreError
from vlascope_latents.store.frame_slot import FrameSlot

from vlascope_server.policies.contract import RequestShape, frame_values
from vlascope_server.robots import RobotInputError
from vlascope_server.serving.batcher import Sample
from vlascope_server.serving.episodes import OpenEpisode, store_refusal
from vlascope_server.serving.errors import RequestError
from vlascope_server.serving.messages import Infer
from vlascope_server.serving.service import Service
from vlascope_server.serving.waiting import Waiter


@dataclasses.dataclass(eq=False)
class _Capture:
    """What is to become of the hidden states."""

    plan: CapturePlan
    episode: OpenEpisode
    timestep: int
    slot: FrameSlot | None
    stored: bool


class Inference:
    """One observation; `run` computes it.

    Attributes:
        prepared: as the policy takes it.
    """

    def __init__(self, service: Service, waiter: Waiter, request: Infer, begun: float):
        """Prepares the observation; nothing is begun or ended where this raises.

        Args:
            service: that answers.
            waiter: the client that asks.
            request: the observation, and what is asked beside actions.
            begun: when its message came, on the clock of `time.perf_counter`.

        Raises:
            RequestError: the observation is not the robot's, or the spec is none that the policy can honour.
        """
        self._service, self._waiter, self._request, self._begun = service, waiter, request, begun
        self._read = time.perf_counter()
        try:
            self.prepared = service.policy.prepare(request.observation)
        except RobotInputError as error:
            raise RequestError("invalid_observation", str(error), error.field) from None
        self._drawn, self._seed = self._draw()
        self._transformed = time.perf_counter()
        self._plan = service.plan(request.collect) if request.collect else None
        self._shape = RequestShape(self._plan)
        service.activity.asked(waiter, self._shape)

    def run(self, episode: OpenEpisode) -> dict[str, object]:
        """Computes the actions, and sends what is captured on its way to the store; the reply, but for its warnings.

        Raises:
            RequestError: the frame does not fit the episode, or the store does not take it.
            ClientGoneError: the client has hung up.
        """
        service, request, prepared = self._service, self._request, self.prepared
        timestep = episode.inferences if request.timestep is None else request.timestep
        capture = self._reserve(episode, timestep)
        try:
            reserved = time.perf_counter()
            sample = self._waiter.computed(prepared, self._drawn, self._shape)
            actions = service.policy.robot_actions(sample.actions, prepared)
            latents = self._keep(capture, sample, actions) if capture else None
        except BaseException as error:
            if capture and capture.slot is not None:
                capture.slot.release(error)
            raise
        done = time.perf_counter()
        self._observe(sample, reserved, done)
        reply: dict[str, object] = {
            "actions": actions,
            # a list, since openpi-client's ActionChunkBroker slices every array by the step
            "state": prepared.robot_state.tolist(),
            "seed": self._seed,
            "policy_timing": {
                "infer_ms": 1e3 * (done - self._begun),
                "transform_ms": 1e3 * (self._transformed - self._begun),
                "queue_ms": 1e3 * (sample.queue_seconds + reserved - self._transformed),
                "model_ms": 1e3 * sample.model_seconds,
                "batch": sample.batch,
            },
        }
        return reply if latents is None else {**reply, "latents": latents}

    def warnings(self) -> list[str]:
        """Lines about keys that nobody reads, a seed that changes nothing, and what the policy says of the observation."""
        lines = self._service.typos.warnings(self._request.observation)
        if self._request.seed is not None and self._drawn is None:
            lines.append("seed: this policy draws nothing: its actions are the same for every seed")
        return [*lines, *map(printable, self.prepared.warnings)]

    def _draw(self) -> tuple[np.ndarray | None, int | None]:
        """What is drawn for the observation, and the seed that it was drawn from; None where nothing was."""
        request, policy = self._request, self._service.policy
        if request.noise is None:
            seed = self._service.seeds.next() if request.seed is None else request.seed
            drawn = policy.draw(seed)
            return drawn, None if drawn is None else seed
        shape = policy.facts.noise_shape
        if shape is None:
            raise RequestError("invalid_field", "noise: this policy takes none: leave it out", "noise")
        if request.noise.shape != shape:
            raise RequestError("invalid_field", f"noise: expected shape {shape}, found {request.noise.shape}", "noise")
        return request.noise, None

    def _reserve(self, episode: OpenEpisode, timestep: int) -> _Capture | None:
        """Room in the store for what is captured, where something is."""
        if self._plan is None:
            return None
        episodes, request = self._service.episodes, self._request
        stored = episodes.run is not None or not request.return_latents
        if stored:  # what is refused is not compiled
            episodes.check_fits(episode, self._plan, self.prepared.prompt, request.annotations)
        # a program that is still to be compiled must not hold room that others could use
        self._waiter.compiled(self._shape)
        if not stored:
            return _Capture(self._plan, episode, timestep, None, stored=False)
        slot = episodes.reserve(episode, self._plan, self.prepared.prompt, request.annotations, timestep)
        return _Capture(self._plan, episode, timestep, slot, stored=True)

    def _keep(self, capture: _Capture, sample: Sample, actions: np.ndarray) -> dict[str, object]:
        """Gives the frame its number and sends it on its way; what the reply says of it."""
        service, writer = self._service, capture.episode.writer
        frame = None
        if capture.slot is not None:
            try:
                frame = capture.slot.number(capture.timestep, self._values(sample, actions))
            except StoreError as error:
                raise store_refusal(error) from None
            service.episodes.fill(capture.slot, sample.tensors, service.metrics.stages.labels("fill").observe)
            capture.slot = None  # it is another thread's now
        used, limit = service.episodes.run.queue if service.episodes.run else (0, 0)
        latents: dict[str, object] = {
            "run": service.run if capture.stored else None,
            "episode": capture.episode.id,
            "attempt": writer.attempt if writer else None,
            "frame": frame,
            "bytes": capture.plan.nbytes,
            "queue": {"bytes": used, "limit": limit},
        }
        if self._request.return_latents:
            latents["tensors"] = _tensors(capture.plan, sample)
        return latents

    def _values(self, sample: Sample, actions: np.ndarray) -> dict[str, object]:
        """What is stored beside the tensors of a frame."""
        values = frame_values(self.prepared, actions, self._seed, sample.decode_steps())
        annotations = self._request.annotations
        return {**values, "annotations": annotations} if annotations else values

    def _observe(self, sample: Sample, reserved: float, done: float) -> None:
        """Measures the stages of the inference."""
        seconds = {
            "read": self._read - self._begun,
            "transform": self._transformed - self._read,
            "reserve": reserved - self._transformed,
            "queue": sample.queue_seconds,
            "model": sample.model_seconds,
            "reply": done - reserved - sample.queue_seconds - sample.model_seconds,
        }
        for stage, value in seconds.items():
            self._service.metrics.stages.labels(stage).observe(value)


def _tensors(plan: CapturePlan, sample: Sample) -> dict[str, object]:
    """The captured arrays as they travel: bfloat16 as the uint16 of its bits."""
    arrays = sample.tensors()
    return {
        tensor.path: {
            "data": arrays[tensor.path].view(np.uint16) if tensor.dtype == "bfloat16" else arrays[tensor.path],
            "logical_dtype": tensor.dtype,
            "dims": list(tensor.dims),
        }
        for tensor in plan.tensors
    }
